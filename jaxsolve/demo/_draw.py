"""The pictures of the demo."""

import pathlib

import numpy as np

from jaxsolve.demo._bootstrap import Bootstrap
from jaxsolve.demo._chain import Chained
from jaxsolve.demo._clean import Cleaning
from jaxsolve.demo._colour import Transfer

# Okabe and Ito's colours: told apart by every eye.
BLUE, RED, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#9A9A9A", "#222222"
STYLE = {
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlesize": 12,
    "figure.dpi": 100,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "savefig.facecolor": "white",
    "text.color": INK,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


def draw(
    folder: pathlib.Path,
    runs: list[Cleaning],
    boot: Bootstrap,
    chained: Chained,
    moved: Transfer,
    progress,
) -> list[pathlib.Path]:
    """Saves every picture under `folder`, and returns their paths."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "lowest-weighted-digits": lambda: thrown_out(plt, runs[0]),
        "cleaning": lambda: cleaning(plt, runs),
        "bootstrap-intervals": lambda: intervals(plt, boot),
        "templates": lambda: templates(plt, chained),
        "colours": lambda: colours(plt, moved),
    }
    paths = []
    with plt.rc_context(STYLE):
        for name, picture in pictures.items():
            figure = picture()
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1])
            plt.close(figure)
            progress()
    return paths


def headline(figure, title, subtitle):
    """Writes the finding above a figure, and what is seen below it."""
    width, height = figure.get_size_inches()
    left = 0.35 / width
    figure.text(
        left, 1 - 0.32 / height, title, size=15, weight="bold", va="top", color=INK
    )
    figure.text(left, 1 - 0.68 / height, subtitle, size=10.5, va="top", color="#555555")


def thrown_out(plt, run: Cleaning, rows: int = 4, columns: int = 10):
    """Draws the digits of lowest weight, with their given and true labels."""
    train, truth = run.split.train, np.asarray(run.split.truth)
    labels, images = np.asarray(train.labels), np.asarray(train.images)
    lowest = np.argsort(run.weights, kind="stable")[: rows * columns]
    wrong = int(np.sum(labels[lowest] != truth[lowest]))
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(10.5, 6.55),
        gridspec_kw={
            "left": 0.033, "right": 0.967, "bottom": 0.055, "top": 0.83,
            "hspace": 0.36, "wspace": 0.16,
        },
    )  # fmt: skip
    for axis, index in zip(axes.flat, lowest, strict=True):
        axis.imshow(images[index].reshape(8, 8), cmap="gray_r", interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        bad = labels[index] != truth[index]
        color = RED if bad else BLUE
        for spine in axis.spines.values():
            spine.set(visible=True, color=color, linewidth=1.6)
        put = {"transform": axis.transAxes, "va": "top", "size": 10, "y": -0.06}
        if bad:
            axis.text(0.0, s=f"“{labels[index]}”", color=RED, weight="bold", **put)
            axis.text(1.0, s=f"is {truth[index]}", color=INK, ha="right", **put)
        else:
            axis.text(0.5, s=f"{truth[index]}, right", color=BLUE, ha="center", **put)
    headline(
        figure,
        f"{wrong} of the {len(lowest)} digits of lowest weight carry a wrong label",
        "Orange: the label that was given, in quotes, and what the digit is. Blue: a "
        "right label.\nThe weights were learned by gradient steps through the fit; "
        "nobody marked a label as wrong.",
    )
    return figure


def cleaning(plt, runs: list[Cleaning]):
    """Draws the test accuracy along the outer steps, and the weights at the end."""
    figure, (left, right) = plt.subplots(
        1,
        2,
        figsize=(10.5, 4.9),
        gridspec_kw={
            "left": 0.075, "right": 0.967, "bottom": 0.13, "top": 0.73, "wspace": 0.2,
            "width_ratios": (1.35, 1),
        },
    )  # fmt: skip
    curves = 100 * np.stack([run.curve for run in runs])
    steps = np.arange(curves.shape[1])
    mean = {
        name: 100 * np.mean([run.accuracy[name] for run in runs])
        for name in runs[0].accuracy
    }
    if len(runs) > 1:
        spread = curves.std(0)
        band = curves.mean(0) - spread, curves.mean(0) + spread
        left.fill_between(steps, *band, color=BLUE, alpha=0.16, linewidth=0)
    left.plot(steps, curves.mean(0), color=BLUE, linewidth=2.2)
    left.annotate(
        f"weights learned  {mean['after']:.1f}",
        (steps[-1], curves.mean(0)[-1]),
        (0, 4),
        textcoords="offset points",
        ha="right",
        color=BLUE,
        weight="bold",
        size=9.5,
    )
    marks = [
        ("right", "all labels right", GREEN, 4, "bottom"),
        ("clean", "the clean images alone", INK, -4, "top"),
        ("before", "all images, weights equal", RED, -4, "top"),
    ]
    for name, text, color, shift, side in marks:
        left.axhline(mean[name], color=color, linewidth=1.2, linestyle=(0, (4, 3)))
        left.annotate(
            f"{text}  {mean[name]:.1f}", (steps[-1], mean[name]), (0, shift),
            textcoords="offset points", ha="right", va=side, color=color, size=9.5,
        )  # fmt: skip
    low = min(curves.min(), mean["before"])
    left.set(
        xlim=(0, steps[-1]),
        ylim=(low - 2.2, max(curves.max(), mean["right"]) + 1.4),
        xlabel="outer steps",
        xticks=np.linspace(0, steps[-1], 5),
    )
    left.set_title("Test accuracy, per cent", size=10.5, weight="bold")

    split = runs[0].split
    good = np.asarray(split.train.labels == split.truth)
    bins = np.linspace(0, 1, 11)
    shares = [runs[0].weights[good], runs[0].weights[~good]]
    counts, _, bars = right.hist(shares, bins, color=[BLUE, RED], rwidth=0.9)
    for heights, group, color in zip(counts, bars, (BLUE, RED), strict=True):
        labels = [f"{height:.0f}" if height else "" for height in heights]
        right.bar_label(group, labels, padding=2, color=color, size=9)
    right.set(xlim=(0, 1), xlabel="weight of a training image", yticks=[])
    right.spines["left"].set_visible(False)
    right.set_title("Training images", size=10.5, weight="bold")
    right.text(0.5, 0.8, "label right", color=BLUE, ha="center", weight="bold",
               transform=right.transAxes)  # fmt: skip
    right.text(0.5, 0.72, "label wrong", color=RED, ha="center", weight="bold",
               transform=right.transAxes)  # fmt: skip
    about = "The weights tell wrong labels from right ones with AUC"
    if len(runs) > 1:
        about = (
            f"Left: mean of {len(runs)} splits, one standard deviation shaded. Right: "
            "the first split, where weights tell wrong labels with AUC"
        )
    headline(
        figure,
        f"Half the labels random: {mean['before']:.0f} → {mean['after']:.0f} % of test "
        "digits right, by learning whom to trust",
        f"{about} {runs[0].auc:.2f}.",
    )
    return figure


def intervals(plt, boot: Bootstrap):
    """Draws the median and the central 95 % of each coefficient, sorted."""
    low, median, high = np.percentile(boot.coefficients, [2.5, 50, 97.5], axis=0)
    order = np.argsort(median)
    sure = (low > 0) | (high < 0)
    figure, axis = plt.subplots(
        figsize=(8.6, 9.2),
        gridspec_kw={"left": 0.27, "right": 0.965, "bottom": 0.065, "top": 0.86},
    )
    axis.axvline(0, color="#888888", linewidth=0.9, zorder=0)
    for row, index in enumerate(order):
        color = GREY
        if sure[index]:
            color = RED if median[index] > 0 else BLUE
        ends, faint = [low[index], high[index]], 0.45 if sure[index] else 0.35
        axis.plot(ends, [row, row], color=color, linewidth=2.4, alpha=faint)
        axis.plot(median[index], row, "o", color=color, markersize=6.5)
    axis.set_yticks(range(len(order)), [boot.names[index] for index in order])
    for tick, index in zip(axis.get_yticklabels(), order, strict=True):
        tick.set_color(INK if sure[index] else "#888888")
    axis.tick_params(axis="y", length=0, pad=8)
    axis.spines["left"].set_visible(False)
    axis.set(ylim=(-0.8, len(order) - 0.2))
    axis.set_xlabel("change of the log-odds of malignancy for one standard deviation")
    axis.set_xlim(low.min() - 0.12, high.max() + 0.12)
    axis.grid(axis="x", color="#E6E6E6", linewidth=0.8)
    axis.set_axisbelow(True)
    for text, color, shift, side in (
        ("← benign", BLUE, -10, "right"),
        ("malignant →", RED, 10, "left"),
    ):
        axis.annotate(
            text,
            (0, 1),
            (shift, 2),
            xycoords=axis.get_xaxis_transform(),
            textcoords="offset points",
            ha=side,
            color=color,
            weight="bold",
        )
    headline(
        figure,
        f"{int(sure.sum())} of {len(order)} measurements keep their sign in 97.5 % of "
        "the replicas",
        f"Median and central 95 % of the coefficients of {len(boot.coefficients):,} "
        f"bootstrap replicas, solved in one batch in {boot.again:.1f} s.\n"
        "Logistic regression on the Wisconsin breast cancer data, standardised.",
    )
    return figure


def templates(plt, chained: Chained):
    """Draws the ten templates of the plain fit, and those of the chain."""
    from matplotlib.colors import LinearSegmentedColormap

    figure, axes = plt.subplots(
        2,
        10,
        figsize=(10.5, 3.7),
        gridspec_kw={
            "left": 0.033, "right": 0.967, "bottom": 0.04, "top": 0.66,
            "hspace": 0.28, "wspace": 0.1,
        },
    )  # fmt: skip
    signed = LinearSegmentedColormap.from_list("signed", [RED, "#F7F7F7", BLUE])
    for row, found in enumerate((chained.templates, chained.positive)):
        bound = np.max(np.abs(found))
        for digit, axis in enumerate(axes[row]):
            axis.imshow(
                found[:, digit].reshape(8, 8), cmap=signed, vmin=-bound, vmax=bound,
                interpolation="nearest",
            )  # fmt: skip
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
    said = (
        ("the fit", chained.accuracy[0]),
        ("the fit with a non-negative link behind the solver", chained.accuracy[1]),
    )
    for axis, (text, share) in zip(axes[:, 0], said, strict=True):
        axis.text(0, 1.06, f"{text}: {100 * share:.1f} % of test digits right",
                  transform=axis.transAxes, size=10, va="bottom")  # fmt: skip
    headline(
        figure,
        "One more link in the optax chain, and the templates become strokes",
        "Blue pixels speak for a digit, 0 to 9; orange ones speak against it.",
    )
    return figure


def colours(plt, moved: Transfer):
    """Draws both photographs, and below each itself in the colours of the other."""
    figure, axes = plt.subplots(
        2,
        2,
        figsize=(10.5, 8.0),
        gridspec_kw={
            "left": 0.033, "right": 0.967, "bottom": 0.02, "top": 0.865,
            "hspace": 0.04, "wspace": 0.02,
        },
    )  # fmt: skip
    for axis, picture in zip(axes.flat, (*moved.pictures, *moved.results), strict=True):
        axis.imshow(np.clip(picture, 0, 1))
        axis.set_axis_off()
    headline(
        figure,
        "Each photograph in the colours of the other",
        f"Optimal transport between {moved.pixels:,} pixels of each, solved in "
        f"{moved.solved:.0f} s, then all {moved.pictures[0].size // 3:,} by the "
        "potentials. Above: as they are.",
    )
    return figure

"""Runs the demo: ``python -m jaxsolve.demo``."""

import argparse
import importlib.util
import pathlib
import sys
import time
from typing import NamedTuple

EXTRAS = ("matplotlib", "sklearn", "tqdm")


class Sizes(NamedTuple):
    """How much is done."""

    splits: int = 5
    train: int = 1000
    clean: int = 200
    steps: int = 60
    replicas: int = 1000
    looped: int = 50
    descents: int = 3000
    pixels: int = 10_000
    stride: int = 1  # of the photographs


WIDTH = 34  # of the first column
QUICK = Sizes(1, 400, 100, 20, 32, 10, 300, 500, 4)


def main(arguments: list[str] | None = None) -> int:
    """Runs all four parts, prints a table, saves the pictures; 0 if all went well."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxsolve.demo", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument(
        "--output", type=pathlib.Path, default="demo-output", metavar="DIR",
        help="where pictures are saved (default: demo-output)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        print(f"The demo needs {names}: pip install 'jaxsolve[demo]'", file=sys.stderr)
        return 1

    import jax

    with jax.enable_x64(True):
        return _demo(QUICK if options.quick else Sizes(), options.output)


def _demo(sizes, folder):
    from tqdm import tqdm

    from jaxsolve.demo import _bootstrap, _chain, _clean, _colour, _draw

    def bar(what, total):
        return tqdm(total=total, desc=f"{what:<22}", ncols=79, file=sys.stderr)

    began = time.perf_counter()
    with bar("Cleaning labels", sizes.splits * sizes.steps) as shown:
        runs = [
            _clean.clean(
                _clean.draw_split(seed, sizes.train, sizes.clean),
                sizes.steps,
                shown.update,
            )
            for seed in range(sizes.splits)
        ]
    cleaned = time.perf_counter() - began
    with bar("Bootstrapping", 2 + sizes.looped) as shown:
        boot = _bootstrap.bootstrap(sizes.replicas, sizes.looped, 0, shown.update)
    with bar("Chaining", 2) as shown:
        first = runs[0]
        chained = _chain.chain(
            first.weights,
            first.split.train,
            first.split.test,
            sizes.descents,
            shown.update,
        )
    with bar("Transporting colours", 3) as shown:
        moved = _colour.transfer(sizes.pixels, sizes.stride, 0, shown.update)
    with bar("Drawing", 5) as shown:
        pictures = _draw.draw(folder, runs, boot, chained, moved, shown.update)
    print()
    print(table(_report(sizes, runs, cleaned, boot, chained)))
    print()
    print(table(_report_colours(moved)))
    print(f"\n{'Total':<{WIDTH}}{time.perf_counter() - began:.1f} s")
    print("\nPictures:", *pictures, sep="\n  ")
    return 0


def _report(sizes, runs, cleaned, boot, chained):
    """Lays out what was found: sections of (what, number, remark)."""
    import numpy as np

    reached = {
        name: 100 * np.array([run.accuracy[name] for run in runs])
        for name in runs[0].accuracy
    }
    percent = {
        name: f"{values.mean():.1f} ± {values.std():.1f} %"
        if len(runs) > 1
        else f"{values[0]:.1f} %"
        for name, values in reached.items()
    }
    auc = np.array([run.auc for run in runs])
    loop = boot.loop * sizes.replicas
    splits = "1 split" if len(runs) == 1 else f"mean of {len(runs)} splits"
    yield (
        f"Cleaning labels by differentiating through L-BFGS ({splits})",
        ("test accuracy before", percent["before"], "half of the labels random"),
        ("  and after", percent["after"], "weights learned"),
        (
            "with the clean images alone",
            percent["clean"],
            f"{sizes.clean} images, the same ridge",
        ),
        ("with both, unweighted", percent["both"], ""),
        ("with all labels right", percent["right"], f"{sizes.train} images"),
        (
            "AUC of weights against labels",
            f"{auc.mean():.3f}",
            f"least {auc.min():.3f}",
        ),
        (
            "error of the hypergradient",
            f"{max(run.gap for run in runs):.1e}",
            "relative to differences, largest",
        ),
        ("time", f"{cleaned:.1f} s", f"{sizes.steps} outer steps a split"),
    )
    least, most = np.min(boot.solution.state.count), np.max(boot.solution.state.count)
    lost = sizes.replicas - int(np.sum(boot.solution.converged))
    yield (
        f"Bootstrapping a logistic regression, {sizes.replicas:,} replicas",
        ("one batch", f"{boot.again:.2f} s", f"{least} to {most} updates a replica"),
        ("  its first call", f"{boot.first:.2f} s", "with compilation"),
        (
            "scikit-learn in a loop",
            f"{loop:.2f} s",
            f"from {boot.looped} replicas, one thread",
        ),
        ("  the batch is faster by", f"{loop / boot.again:.1f} x", ""),
        ("replicas that did not converge", f"{lost}", ""),
        (
            "final gradient, sup-norm",
            f"{boot.grads[0]:.0e}",
            f"scikit-learn's {boot.grads[1]:.0e}",
        ),
        ("difference of coefficients", f"{boot.gap:.1e}", "largest, absolute"),
    )
    yield (
        "The same solver in an optax chain",
        (
            "difference from the plain run",
            f"{chained.gap:.1e}",
            f"after {chained.count} updates",
        ),
        (
            "with a non-negative link",
            f"{100 * chained.accuracy[1]:.1f} %",
            f"test accuracy; without {100 * chained.accuracy[0]:.1f} %",
        ),
        (
            "  projected gradient there",
            f"{chained.certificate:.1e}",
            f"after {sizes.descents} updates",
        ),
    )


def _report_colours(moved):
    """The same of the photographs."""
    matrix = 4 * moved.pixels**2 / 2**20
    size = moved.pictures[0].size // 3
    first, second = moved.after
    yield (
        f"Each photograph in the colours of the other, {moved.pixels:,} pixels each",
        (
            "time of the solve",
            f"{moved.solved:.1f} s",
            f"{moved.count} times {moved.pixels**2:,} costs, twice",
        ),
        ("  its compilation", f"{moved.compiled:.1f} s", ""),
        (
            "  its memory",
            f"{moved.memory / 2**20:.0f} MiB",
            f"as compiled; the matrix alone: {matrix:,.0f} MiB",
        ),
        (
            "error of the marginals",
            f"{moved.error:.1e}",
            "converged" if moved.converged else "NOT CONVERGED",
        ),
        (
            "time for all other pixels",
            f"{moved.mapped:.1f} s",
            f"{size:,} a picture, by the potentials",
        ),
        ("  difference from the plan", f"{moved.gap:.1e}", "where it was sampled"),
        (
            "distance of the colours",
            f"{moved.before:.3f}",
            "sliced Wasserstein",
        ),
        ("  once the tower has the flower's", f"{first:.3f}", ""),
        ("  once the flower has the tower's", f"{second:.3f}", ""),
    )


def table(sections) -> str:
    """Sets sections of rows in columns."""
    lines = []
    for title, *rows in sections:
        lines += ["", title, "─" * 78]
        lines += [
            f"{what:<{WIDTH}}{number:<16}{remark}" for what, number, remark in rows
        ]
    return "\n".join(lines[1:])


if __name__ == "__main__":
    sys.exit(main())

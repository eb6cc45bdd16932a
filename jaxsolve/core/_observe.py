"""Looking at a run: progress while it goes, a picture when it is over."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_WIDTH = 30


def report(steps, max_steps, error, done) -> None:
    """Redraws the progress bar at about every hundredth of the way, and at the end."""
    every = jnp.maximum(max_steps // 100, 1)
    due = (steps % every == 0) | done | (steps >= max_steps)

    def show():
        jax.debug.callback(_show, steps, max_steps, error, done)

    jax.lax.cond(due, show, lambda: None)


def _show(steps, max_steps, error, done):
    bar(steps, max_steps, f"error {float(error):.2e}", done)


def bar(steps, max_steps, note: str, done) -> None:
    """Draws one line of progress on standard error."""
    share = min(1.0, float(steps) / max(1.0, float(max_steps)))
    filled = "#" * round(_WIDTH * share)
    end = "\n" if bool(done) or int(steps) >= int(max_steps) else ""
    sys.stderr.write(
        f"\r[{filled:<{_WIDTH}}] {int(steps)}/{int(max_steps)} updates, {note} {end}"
    )
    sys.stderr.flush()


def plot_convergence(history: Any, *, ax=None, **style):
    """Draws recorded quantities against the number of updates, on a log scale.

    Needs matplotlib.

    Args:
        history: of a `Solution` made with ``record=``: a tree of arrays whose first
            axis is the update; further axes are lanes, drawn one line each. Rows that
            were not reached (NaN) are left out. Dictionary keys label the lines.
        ax: matplotlib axes; new ones by default.
        **style: passed to ``ax.plot``.

    Returns:
        The axes.

    Raises:
        ValueError: if there is nothing to draw.
    """
    if not jax.tree.leaves(history):
        raise ValueError(
            "there is no history to draw: run with `record=`, for instance "
            "`record=lambda params, state: state.error`."
        )
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for path, leaf in jax.tree_util.tree_leaves_with_path(history):
        values = np.asarray(leaf, np.float64)
        lanes = values.reshape(len(values), -1)
        label = jax.tree_util.keystr(path, simple=True, separator=".") or None
        for lane in lanes.T:
            ax.plot(1 + np.arange(len(lane)), lane, **{"label": label, **style})
            label = None
    ax.set_yscale("log")
    ax.set_xlabel("updates")
    ax.grid(alpha=0.3)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False)
    return ax

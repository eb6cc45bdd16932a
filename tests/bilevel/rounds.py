"""Rounds of lower, adjoint and upper updates in NumPy, one batch for each update."""

import jax
import numpy as np

from tests.bilevel import finite_sum
from tests.bilevel.quadratic import MU

START = np.array([1.0, -0.5]), np.array([0.3, 0.0, -0.2])


class Rounds:
    """x, y and w of the card, and what they were after every update."""

    def __init__(self, batches):
        self.x, self.y = START
        self.w = np.zeros(3)
        self.error = np.inf
        self.after = []
        self.batches = batches
        self.fresh = True

    def next(self):
        """H, J, g_y and the two parts of the gradient of f, of the next batch."""
        pick = lambda leaf: leaf[len(self.after)]
        target, (hessian, cross, linear) = jax.tree.map(pick, self.batches)
        slope = hessian @ self.y - cross @ self.x - linear
        return hessian, -cross, slope, MU * self.x, self.y - target

    def record(self):
        """Ends an update."""
        self.after.append((self.x, self.y, self.w, self.error))

    def lower(self, stepsize):
        """A step of y."""
        _, _, slope, _, _ = self.next()
        self.y = self.y - stepsize * slope
        self.record()

    def evaluate(self):
        """Takes f_x and f_y of the batch, if it is the first after the lower phase."""
        *_, f_x, f_y = self.next()
        if self.fresh:
            self.f_x, self.f_y, self.fresh = f_x, f_y, False

    def upper(self, move):
        """A step of x, which ends the round; `move` gives a memory and the step."""
        self.evaluate()
        hessian, jacobian, slope, _, _ = self.next()
        gradient = self.f_x - jacobian.T @ self.w
        parts = gradient, slope, hessian @ self.w - self.f_y
        self.error = max(np.abs(part).max() for part in parts)
        memory, step = move(gradient)
        self.x, self.fresh = self.x + step, True
        self.record()
        return memory


def epochs(run, loop):
    """EpochSGD on the lower level, or plain SGD."""
    for s in range(loop.epochs):
        center, iterates = run.y, []
        radius = np.inf if loop.radius is None else loop.radius * 2 ** (-s / 2)
        length = loop.steps * 2**s
        for t in range(length):
            step = -loop.stepsize * 2.0**-s * run.next()[2]
            away = run.y + step - center
            iterates.append(center + away * min(1, radius / np.linalg.norm(away)))
            run.y = iterates[-1]
            if loop.average and t == length - 1:
                run.y = np.mean(iterates, axis=0)
            run.record()


def stream(count):
    """Batches of problem Q, all different, stacked."""
    return finite_sum.draw(n=count, dx=2, dy=3, top=2.0, noise=0.3)


def assert_same_updates(history, after):
    """What the solver recorded of its updates, and what NumPy did."""
    for ours, theirs in zip(zip(*history, strict=True), after, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)

"""What the suite of transformations needs to know of one, so that it asks no name.

The files `tests/transforms/links*.py` each hold a tuple `LINKS`, one `Link` or more for
every public factory that returns an optax transformation::

    LINKS = (
        Link("armijo_sgd", transforms.armijo_sgd, needs=("value", "grad", "value_fn")),
    )
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax


def extras(fun, params):
    """What a training loop has at hand beside the gradient, by optax's names."""
    value, grad = jax.value_and_grad(fun)(params)

    def hvp(vector):
        return jax.jvp(jax.grad(fun), (params,), (vector,))[1]

    return dict(value=value, grad=grad, value_fn=fun, hvp=hvp)


@dataclasses.dataclass(frozen=True, eq=False)
class Link:
    """A transformation, and what may be asked of it.

    It is put to f(x) = sum (x - 3)^2 over two leaves, a matrix and a scalar. Whatever
    is left at its default promises the most: one that switches something off says
    why in a comment.

    Attributes:
        factory: the public name in `transforms`.
        make: as ``make(**numbers)``: a transformation whose updates are to be added to
            params and descend: a link that leaves the sign is chained with
            ``optax.scale(-1)``. Structure is fixed inside.
        variant: tells apart several links of one factory.
        hyper: a number that `make` takes by name and a value of it, for
            ``inject_hyperparams``; its second value is half of that. None without.
        rate: the name of the argument of `make` that may be a schedule, if any.
        needs: the names of the extra arguments without which an update is an error.
        extras: as ``extras(fun, params) -> dict``: all extra arguments of an update.
        per_param: floats of state a parameter, for large leaves.
        descends: whether the first update lowers f.
        still: whether a zero gradient, at a minimiser, gives a zero update.
        accumulates: whether ``MultiSteps`` of two like gradients makes one plain step.
        converges: whether `from_optax` of it, as it is made, runs to 1e-2. Fixed
            lengths of steps, and extra arguments that `from_optax` has not, do not.
        rtol: between eager and compiled, single and batched, in float32.
    """

    factory: str
    make: Callable[..., Any]
    variant: str = ""
    hyper: tuple[str, float] | None = None
    rate: str | None = None
    needs: tuple[str, ...] = ()
    extras: Callable[..., dict] = extras
    per_param: float = 0
    descends: bool = True
    still: bool = True
    accumulates: bool = True
    converges: bool = True
    rtol: float = 1e-5

    def __str__(self):
        return self.factory + (f"-{self.variant}" if self.variant else "")


def all_links():
    """The links of all files `links*.py` here, in the order of their names."""
    here = pathlib.Path(__file__).parent
    found = []
    for path in sorted(here.glob("links*.py")):
        module = importlib.import_module(f"tests.transforms.{path.stem}")
        found += module.LINKS
    return found

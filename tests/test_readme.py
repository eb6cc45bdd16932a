"""The README's examples run, one after the other, as a newcomer would type them."""

import inspect
import pathlib
import re

import jax

import jaxsolve
from jaxsolve import core

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_examples_of_the_readme_run():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 6
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)


def test_every_solver_has_a_row_in_the_table():
    text = README.read_text()
    rooms = ("smooth", "composite", "fixed_point", "transport", "bilevel", "online")
    for room in (*rooms, "transforms"):
        module = getattr(jaxsolve, room)
        for name in module.__all__:
            factory = getattr(module, name)
            if not inspect.isfunction(factory):
                continue
            if inspect.signature(factory).return_annotation is core.Solver:
                assert f"`{room}.{name}`" in text, f"{room}.{name} has no row"

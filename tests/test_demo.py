"""The demo runs, draws, and finds what it says."""

import contextlib
import importlib.util
import io
import re

import jax
import pytest

from jaxsolve.demo.__main__ import main


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Runs the quick demo once: its pictures, and what it printed."""
    folder, out, err = tmp_path_factory.mktemp("demo"), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with jax.numpy_dtype_promotion("standard"):  # optax.scale_by_adam needs it
            assert main(["--quick", "--output", str(folder)]) == 0
    return folder, out.getvalue()


def number(text, row):
    """Reads the number in the row of the table that begins so."""
    return float(re.search(rf"^ *{re.escape(row)} +([-+.\de]+)", text, re.M)[1])


def test_the_demo_saves_its_pictures(quick):
    folder, text = quick
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    names = {
        "lowest-weighted-digits", "cleaning", "bootstrap-intervals", "templates",
        "colours",
    }  # fmt: skip
    assert set(sizes) == {f"{name}.png" for name in names}
    assert min(sizes.values()) > 10_000
    assert all(name in text for name in sizes)


def test_learned_weights_improve_the_accuracy_and_tell_wrong_labels(quick):
    _, text = quick
    before = number(text, "test accuracy before")
    assert number(text, "and after") > before + 1
    assert number(text, "AUC of weights against labels") > 0.85


def test_the_hypergradient_agrees_with_central_differences(quick):
    _, text = quick
    assert number(text, "error of the hypergradient") < 1e-4


def test_the_batch_of_replicas_agrees_with_scikit_learn(quick):
    _, text = quick
    assert number(text, "replicas that did not converge") == 0
    assert number(text, "final gradient, sup-norm") <= 1e-8
    assert number(text, "difference of coefficients") < 1e-4


def test_a_link_of_a_chain_equals_the_plain_run(quick):
    _, text = quick
    assert number(text, "difference from the plain run") < 1e-12


def test_photographs_take_the_colours_of_one_another(quick):
    _, text = quick
    assert number(text, "error of the marginals") < 1e-3
    assert number(text, "difference from the plan") < 1e-3
    before = number(text, "distance of the colours")
    assert number(text, "once the tower has the flower's") < 0.1 * before
    assert number(text, "once the flower has the tower's") < 0.1 * before


def test_a_missing_extra_is_one_clear_line(monkeypatch, capsys):
    find = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == "tqdm" else find(name, *rest)
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    assert main(["--quick"]) == 1
    said = capsys.readouterr().err
    assert said == "The demo needs tqdm: pip install 'jaxsolve[demo]'\n"

"""Every notebook runs from top to bottom."""

import os
import pathlib
import warnings

import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the Jupyter client are not ours
        import nbclient
        import nbformat

        # The kernel is a process of its own, without this suite's eight devices.
        monkeypatch.setenv("XLA_FLAGS", "")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path.parent.parent)]))
        notebook = nbformat.read(path, as_version=4)
        client = nbclient.NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
        )
        client.execute()

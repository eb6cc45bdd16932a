"""Imports go strictly down, and every room keeps the form of the house."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent / "jaxsolve"
FLOORS = (
    {"core"},
    {"prox", "linear", "linesearch", "schedules"},
    {
        "transforms", "smooth", "fixed_point", "composite", "saddle", "conic",
        "constrained", "transport", "online", "low_rank", "derivative_free",
        "private", "robust",
    },
    {"bilevel", "distributed", "learned", "problems"},
    {"doors", "demo"},
)  # fmt: skip
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = sorted(
    path.name for path in ROOT.iterdir() if path.is_dir() and "__" not in path.name
)
RUNTIME = {"jax", "jaxlib", "numpy", "optax", "chex", "equinox", "lineax"}
OPTIONAL = {"matplotlib", "tqdm", "sklearn"}  # imported inside functions only


def imported_rooms(room):
    """Yields (file, room imported) of every import of jaxsolve in a room."""
    for path in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "jaxsolve":
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                parts = node.module.split(".")
                if parts[0] == "jaxsolve" and len(parts) > 1:
                    yield path, parts[1]
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    parts = alias.name.split(".")
                    if parts[0] == "jaxsolve":
                        yield path, (parts + ["*"])[1]


def test_every_room_has_a_floor():
    assert set(ROOMS) <= set(FLOOR)


def test_imports_go_strictly_down():
    for room in ROOMS:
        if FLOOR[room] == len(FLOORS) - 1:
            continue
        for path, other in imported_rooms(room):
            allowed = other == room or FLOOR.get(other, 99) < FLOOR[room]
            assert allowed, f"{path.relative_to(ROOT)} imports jaxsolve.{other}"


def test_nothing_outside_the_runtime_dependencies_is_imported_at_the_top():
    standard = __import__("sys").stdlib_module_names
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                demo = "demo" in path.parts and top in OPTIONAL
                known = top in standard or top in RUNTIME | {"jaxsolve"} or demo
                assert known, f"{path.relative_to(ROOT)} imports {name}"


def test_modules_are_private_and_rooms_say_what_they_offer():
    for room in ROOMS:
        for path in (ROOT / room).glob("*.py"):
            assert path.name.startswith("_"), path
            assert path.name not in ("_utils.py", "_common.py", "_base.py"), path
        if room != "demo":
            text = (ROOT / room / "__init__.py").read_text()
            assert "__all__" in text and not re.search(r"import \*", text), room


def test_top_level_of_the_repository_is_what_the_design_says():
    found = {path.name for path in ROOT.parent.iterdir() if path.name[0] != "."}
    expected = {
        "pyproject.toml", "README.md", "LICENSE", "jaxsolve", "tests", "notebooks",
        "bench",
    }  # fmt: skip
    assert found - {"demo-output"} <= expected

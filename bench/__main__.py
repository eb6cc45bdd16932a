"""`python -m bench <family>`: ratio tables, and JSON in bench/results."""

import argparse
import importlib
import pathlib
import sys
import time

import jax

from bench._harness import Options, environment, table, write

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results"
FAMILIES = sorted(path.stem for path in HERE.glob("[a-z]*.py"))


def main():
    if sys.argv[1:2] == ["cutest"]:  # has options of its own
        return importlib.import_module("bench.cutest").main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--quick", action="store_true", help="a tiny smoke run")
    parser.add_argument("--repeats", type=int, default=None, help="turns per row")
    parser.add_argument("--row", default=None, help="this row only")
    parser.add_argument("--json", type=pathlib.Path, default=None, help="where to")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = importlib.import_module(f"bench.{arguments.family}").ROWS
    if arguments.row is not None and arguments.row not in rows:
        parser.error(f"no row {arguments.row!r}; there are {', '.join(rows)}")
    repeats = arguments.repeats or (3 if arguments.quick else 21)
    quick = arguments.quick
    options = Options(quick, repeats, compiles=1 if quick else 3, calls=not quick)
    here = environment()
    print(f"{here['cpu']}, {here['cores']} cores, load {here['load']:.1f};", end=" ")
    print(", ".join(f"{k} {v}" for k, v in here["versions"].items()), flush=True)
    start, done = time.perf_counter(), []
    for name, measure in rows.items():
        if arguments.row in (None, name):
            for row in measure(options):
                done.append(row)
                print(table(row), flush=True)
    print(f"{time.perf_counter() - start:.0f} s")
    path = arguments.json
    if path is None and not arguments.quick and arguments.row is None:
        path = RESULTS / f"{arguments.family}.json"
    if path is not None:
        write(path, arguments.family, done, options)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()

"""Contenders side by side: compile, first and steady time, oracle calls, accuracy.

Contenders run in turn (A B C, A B C, ...), so that a busy machine slows all of them;
medians are reported, and ratios are medians of the ratios within a turn. What was
reached is computed here, by the same function for everybody, never read from a solver.
"""

import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

PACKAGES = ("jaxsolve", "jax", "jaxlib", "optax", "jaxopt", "optimistix", "scipy")
SHORTEST = 0.02  # seconds: a faster solve is repeated within one timing.
BUDGET = 20.0  # seconds: slow contenders take fewer turns, five at least.


class Options(NamedTuple):
    """What the command line asks for."""

    quick: bool = False
    repeats: int = 21
    compiles: int = 3
    calls: bool = True  # count the oracle calls of all, at one more compilation each


class Contender(NamedTuple):
    """One library at one setting; `build(fun)` gives `solve(*args)`.

    `solve` returns `(params, steps)`. With `compiled` it is put through
    `jit(solve).lower().compile()`, else called as it is: a driver in Python.
    """

    name: str
    build: Callable[[Callable], Callable]
    settings: str = ""
    compiled: bool = True


class Figures(NamedTuple):
    """A row's records, one dict a contender, and the seconds of every turn."""

    records: list[dict]
    turns: np.ndarray  # (repeats, contenders)
    outputs: dict[str, tuple]  # of every contender: params and steps
    solves: dict[str, Callable]  # of every contender: the compiled solve, to call again

    def of(self, name: str) -> dict:
        """Give the record of a contender."""
        return next(r for r in self.records if r["name"] == name)

    def ratio(self, name: str, to: str) -> float:
        """Median over the turns of one contender's time over another's."""
        names = [r["name"] for r in self.records]
        pair = self.turns[:, names.index(name)] / self.turns[:, names.index(to)]
        return float(np.median(pair))

    def fastest(self, names: Sequence[str], field: str = "steady") -> str:
        """Name the fastest of those contenders that reached the bound."""
        good = [n for n in names if self.of(n)["reached"] >= 0.99]
        return min(good or names, key=lambda n: self.of(n)[field])


def counting(fun, counter: list):
    """Count the traces of `fun` in `counter[0]`."""

    @functools.wraps(fun)
    def counted(*args):
        counter[0] += 1
        return fun(*args)

    return counted


def ticking(fun, counter: list):
    """Count the run-time evaluations of `fun`; one of a whole batch counts once."""

    def tick():
        counter[0] += 1

    @functools.wraps(fun)
    def ticked(*args):
        jax.debug.callback(tick)
        return fun(*args)

    return ticked


def clock(call: Callable, number: int = 1) -> float:
    """Seconds of one call, out of `number`, with its result awaited."""
    start = time.perf_counter()
    for _ in range(number):
        jax.block_until_ready(call())
    return (time.perf_counter() - start) / number


def interleave(calls: Sequence[Callable], repeats: int) -> np.ndarray:
    """Time calls in turn: seconds, `(repeats, calls)`. Each has run before."""
    seconds = [clock(call) for call in calls]
    numbers = [max(1, min(1000, int(SHORTEST / s))) for s in seconds]
    total = sum(n * s for n, s in zip(numbers, seconds, strict=True))
    repeats = min(repeats, max(5, int(BUDGET / total)))
    turns = np.empty((repeats, len(calls)))
    for turn in tqdm(turns, desc="turns", leave=False, disable=not sys.stderr.isatty()):
        for i, (call, number) in enumerate(zip(calls, numbers, strict=True)):
            turn[i] = clock(call, number)
    return turns


def compile_afresh(contender: Contender, fun: Callable, args: tuple):
    """Build and compile anew: the call, its seconds, traces, temporary bytes.

    The seconds are those of trace and lowering, compilation, first run, and their sum;
    of a driver in Python only the sum is known, given as its first run too.
    """
    jax.clear_caches()
    traces = [0]
    solve = contender.build(counting(fun, traces))
    if not contender.compiled:
        cold = clock(lambda: solve(*args))
        return lambda: solve(*args), (np.nan, np.nan, cold, cold), traces[0], None
    start = time.perf_counter()
    lowered = jax.jit(solve).lower(*args)
    middle = time.perf_counter()
    executable = lowered.compile()
    end = time.perf_counter()
    first = clock(lambda: executable(*args))
    seconds = (middle - start, end - middle, first, end - start + first)
    memory = getattr(executable.memory_analysis(), "temp_size_in_bytes", None)
    return lambda: executable(*args), seconds, traces[0], memory


def _calls(contender: Contender, fun, args) -> int:
    ticks = [0]
    solve = contender.build(ticking(fun, ticks))
    solve = jax.jit(solve) if contender.compiled else solve
    jax.block_until_ready(solve(*args))
    jax.effects_barrier()
    return ticks[0]


def compare(
    contenders: Sequence[Contender],
    fun: Callable,
    args: tuple,
    error: Callable[[Any], jax.Array],
    bound: float,
    options: Options,
) -> Figures:
    """Measure contenders on one problem; `error(params)` is judged against `bound`."""
    ready, seconds = {}, {c.name: [] for c in contenders}
    for _ in range(options.compiles):
        for contender in contenders:
            call, times, traces, memory = compile_afresh(contender, fun, args)
            seconds[contender.name].append(times)
            ready[contender.name] = call, traces, memory
    turns = interleave([ready[c.name][0] for c in contenders], options.repeats)
    records, outputs = [], {}
    for i, contender in enumerate(contenders):
        call, traces, memory = ready[contender.name]
        params, steps = outputs[contender.name] = jax.block_until_ready(call())
        errors = np.asarray(error(params))
        lower, compiling, first, cold = np.median(seconds[contender.name], axis=0)
        calls = _calls(contender, fun, args) if i == 0 or options.calls else None
        low, middle, high = np.quantile(turns[:, i], [0.25, 0.5, 0.75])
        records.append(
            {
                "name": contender.name,
                "settings": contender.settings,
                "lower": lower,
                "compile": compiling,
                "first": first,
                "cold": cold,
                "steady": middle,
                "iqr": high - low,
                "traces": traces,
                "calls": calls,
                "steps_max": int(np.max(steps)),
                "steps_mean": float(np.mean(steps)),
                "reached": float(np.mean(errors <= bound)),
                "worst": float(np.max(errors)),
                "temp_bytes": memory,
            }
        )
    solves = {name: call for name, (call, _, _) in ready.items()}
    return Figures(records, turns, outputs, solves)


def target(what: str, value: float, sense: str, goal: float) -> dict:
    """State a target and whether it is met; `sense` is '<=' or '>='."""
    met = value <= goal if sense == "<=" else value >= goal
    return {
        "what": what,
        "value": float(value),
        "sense": sense,
        "goal": goal,
        "met": bool(met),
    }


def environment() -> dict:
    """Describe machine, versions and settings."""
    model = platform.processor()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "source tree"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "devices": [d.device_kind for d in jax.devices()],
        "python": platform.python_version(),
        "versions": versions,
        "x64": bool(jax.config.jax_enable_x64),
        "matmul_precision": jax.config.jax_default_matmul_precision,
    }


def _seconds(value: float) -> str:
    if value is None or not np.isfinite(value):
        return "-"
    if abs(value) < 1e-9:
        return "0"
    for scale, unit in ((1, "s"), (1e3, "ms")):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e6:.3g} us"


def table(row: dict, width: int = 34) -> str:
    """Format one row's contenders and targets for reading."""
    lines = [f"== {row['row']} ({row['dtype']}): {row['problem']}"]
    reference = row.get("reference")
    heads = "trace+lower compile first steady iqr ratio reached worst traces calls"
    lines.append(
        " " * width + "".join(f"{h:>12}" for h in heads.split()) if reference else ""
    )
    for r in row["contenders"] if reference else ():
        ratio = row["ratios"].get(r["name"], np.nan)
        cells = [_seconds(r[k]) for k in ("lower", "compile", "first", "steady", "iqr")]
        cells += [f"{ratio:.2f}x", f"{r['reached']:.1%}", f"{r['worst']:.1e}"]
        cells += [str(r["traces"]), str(r["calls"] or "-")]
        lines.append(f"{r['name']:<{width}}" + "".join(f"{c:>12}" for c in cells))
    lines += [f"  {line}" for line in row.get("notes", ())]
    for t in row.get("targets", ()):
        mark = "met " if t["met"] else "MISS"
        lines.append(
            f"  [{mark}] {t['what']}: {t['value']:.3g} ({t['sense']} {t['goal']:g})"
        )
    return "\n".join(line for line in lines if line)


def row(name: str, problem: str, figures: Figures, reference: str, **more) -> dict:
    """Gather one row; ratios are times over the reference contender's."""
    ratios = {r["name"]: figures.ratio(r["name"], reference) for r in figures.records}
    more = {"dtype": "float64", "notes": [], "targets": []} | more
    head = {"row": name, "problem": problem, "reference": reference, "ratios": ratios}
    head["repeats"] = len(figures.turns)
    return head | {"contenders": figures.records} | more


def plain(value):
    """Make figures JSON: numpy scalars to Python's, NaN to null."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return value


def write(path: pathlib.Path, family: str, rows: list[dict], options: Options):
    """Write a family's figures as JSON."""
    out = {"family": family, "options": options._asdict()} | environment()
    out["rows"] = rows
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain(out), indent=1) + "\n")

"""`python -m bench cutest`: solve rates on CUTEst problems, and performance profiles.

Solved means, of what a contender returned, in float64 and outside all solvers: the
value within 1e-6 (1 + |best|) of the best that any contender found in the box; a root
to 1e-6 in the sup-norm, where any contender found one, else the least sum of squares
within 1e-6 of itself. In float32 the bounds are 1e-4. `compile` is the first call less
the median of three others.
"""

import argparse
import json
import pathlib
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from bench import _cutest_peers as peers
from bench._harness import environment

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results"
LISTS = {
    "unconstrained": peers.MINIMISERS,
    "bounded": peers.BOUNDED,
    "equations": peers.EQUATIONS,
}


def names_of(listed: str, max_n: int) -> list[str]:
    """Read the problems of a list that are small enough."""
    text = (HERE / "cutest.txt").read_text()
    section = re.search(rf"\[{listed}\]\n(.*?)(\n\[|\Z)", text, re.DOTALL).group(1)
    pairs = [word.split(":") for word in section.split()]
    return [name for name, size in pairs if int(size) <= max_n]


def load(name: str, listed: str) -> peers.Problem:
    """Make a problem of a class of sif2jax; params and residuals are vectors."""
    import sif2jax.cutest

    made = getattr(sif2jax.cutest, name)()
    if listed != "equations":
        bounds = made.bounds if listed == "bounded" else None
        return peers.Problem(name, made.objective, made.y0, made.args, bounds)

    def residuals(x, args):
        del args
        return jnp.concatenate([jnp.ravel(made.constraint(x)[0])])

    return peers.Problem(name, residuals, made.y0, made.args)


def judge(problem, listed: str) -> callable:
    """Make the judge of params: value and violation, in float64."""
    exact_in = problem.x0.dtype  # bounds are those that the solvers were given
    with jax.enable_x64(True):
        exact = load(problem.name, listed)

    def judged(params):
        with jax.enable_x64(True):
            x = jnp.asarray(np.asarray(params, np.float64))
            value = np.asarray(exact.fun(x, exact.args))
            outside = 0.0
            if exact.bounds is not None:
                low, high = (np.asarray(b, exact_in) for b in exact.bounds)
                outside = np.max(np.maximum(np.maximum(low - x, x - high), 0))
        if listed == "equations":
            sup = np.max(np.abs(value)) if value.size else 0.0
            return {"value": float(0.5 * np.sum(value**2)), "sup": float(sup)}
        return {"value": float(value), "outside": float(outside)}

    return judged


def measure(problem, build, judged) -> dict:
    """Solve once, which compiles, and as compiled; the median of three."""
    try:
        solve, seconds = build(problem), []
        for _ in range(4):
            start = time.perf_counter()
            params, steps, *rest = jax.block_until_ready(solve(problem.x0))
            seconds.append(time.perf_counter() - start)
    except Exception as error:  # a peer that refuses a problem has not solved it
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}
    steady = float(np.median(seconds[1:]))
    record = judged(params) | {
        "steps": int(steps),
        "compile": max(seconds[0] - steady, 0.0),
        "steady": steady,
    }
    if rest:
        record["status"] = rest[0].status.item()
        record["method"] = str(getattr(rest[0], "method", ""))
        record["final_error"] = float(rest[0].state.error)
    return record


def evaluations_outside(problem) -> int:
    """Count the evaluations of ours at points that are not in the box."""
    low, high = problem.bounds
    count = [0]

    def tick(inside):
        count[0] += not inside

    def watched(x, args):
        jax.debug.callback(tick, jnp.all((x >= low) & (x <= high)))
        return problem.fun(x, args)

    out = peers.ours(problem._replace(fun=watched))(problem.x0)
    jax.block_until_ready(out)
    jax.effects_barrier()
    return count[0]


def legal(value):
    """Make JSON of figures: values in full, for later comparison; NaN to null."""
    if isinstance(value, dict):
        return {k: legal(v) for k, v in value.items()}
    if isinstance(value, list):
        return [legal(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _number(kept) -> float:
    """Read what `legal` wrote: null is what was no finite number."""
    return np.inf if kept is None else kept


def solved(records: dict, listed: str, rtol: float) -> dict[str, bool]:
    """Judge the contenders of a problem against the best of all."""
    good = {
        name: r
        for name, r in records.items()
        if r.get("value") is not None
        and np.isfinite(r["value"])
        and _number(r.get("outside", 0.0)) <= 1e-9
    }
    if not good:
        return dict.fromkeys(records, False)
    best = min(r["value"] for r in good.values())
    if listed == "equations":
        if min(r["sup"] for r in good.values()) <= 1e-6:
            return {n: n in good and good[n]["sup"] <= rtol for n in records}
        bound = best * (1 + rtol)
    else:
        bound = best + rtol * (1 + abs(best))
    return {n: n in good and good[n]["value"] <= bound for n in records}


def summary(table: dict, listed: str, rtol: float) -> dict:
    """Gather solve rates and medians of the times over a list."""
    names = list(LISTS[listed])
    wins = {p: solved(records, listed, rtol) for p, records in table.items()}
    out = {}
    for name in names:
        there = [p for p in table if name in table[p]]
        if not there:
            continue
        timed = [r[name] for r in table.values() if "steady" in r.get(name, {})]
        out[name] = {
            "solved": sum(wins[p][name] for p in there),
            "of": len(there),
            "rate": sum(wins[p][name] for p in there) / len(there),
            "compile": float(np.median([r["compile"] for r in timed] or [np.nan])),
            "steady": float(np.median([r["steady"] for r in timed] or [np.nan])),
        }
        out[name]["missed"] = [p for p in there if not wins[p][name]]
    return out


def roots(table: dict, rtol: float) -> dict:
    """Split the equations: with a root that anybody found, and data fits."""
    out = {}
    for kind in ("root", "fit"):
        part = {}
        for problem, records in table.items():
            sups = [r["sup"] for r in records.values() if r.get("sup") is not None]
            has = min(sups, default=np.inf) <= 1e-6
            if has == (kind == "root"):
                part[problem] = records
        out[kind] = summary(part, "equations", rtol)
    return out


def profile(table: dict, listed: str, rtol: float, path: pathlib.Path):
    """Draw the share of problems solved within a factor of the quickest."""
    from matplotlib.figure import Figure

    wins = {p: solved(records, listed, rtol) for p, records in table.items()}
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    quickest = {}
    for problem, records in table.items():
        times = [r["steady"] for n, r in records.items() if wins[problem][n]]
        quickest[problem] = min(times, default=np.nan)
    factors = np.logspace(0, 3.5, 200)
    for name in LISTS[listed]:
        ratios = np.array(
            [
                table[p][name]["steady"] / quickest[p]
                if name in table[p] and wins[p][name]
                else np.inf
                for p in table
            ]
        )
        share = [np.mean(ratios <= factor) for factor in factors]
        ours = name.startswith("jaxsolve")
        axes.plot(factors, share, label=name, lw=2.5 if ours else 1.2)
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="time over the quickest")
    axes.set(ylabel="share of problems solved", title=f"CUTEst, {listed}")
    axes.legend(fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def show(head: str, figures: dict):
    """Print a table."""
    print(f"== {head}")
    for name, f in figures.items():
        print(
            f"  {name:<28}{f['solved']:>4} of {f['of']:<4}{f['rate']:>7.1%}"
            f"  compile {f['compile']:.2f} s  steady {f['steady'] * 1e3:.3g} ms"
            f"  missed {' '.join(f['missed'][:12])}"
        )


def arguments(argv):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench cutest", description=__doc__)
    parser.add_argument("--list", choices=LISTS, action="append")
    parser.add_argument("--max-n", type=int, default=100)
    parser.add_argument("--only", default="", help="contenders that contain this")
    parser.add_argument("--problem", action="append", help="these problems only")
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--quick", action="store_true", help="three problems a list")
    parser.add_argument("--json", type=pathlib.Path, default=None)
    parser.add_argument("--outside", action="store_true", help="count, in the box list")
    return parser.parse_args(argv)


def main(argv):
    """Run, keep and show; with `--only`, the others' last results stay."""
    options = arguments(argv)
    jax.config.update("jax_enable_x64", not options.float32)
    suffix = "_float32" if options.float32 else ""
    path = options.json or RESULTS / f"cutest{suffix}.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    kept, summaries = old.get("lists", {}), old.get("summary", {})
    if options.float32 and (RESULTS / "cutest.json").exists():
        exact = json.loads((RESULTS / "cutest.json").read_text())["lists"]
    else:
        exact = {}
    rtol = 1e-4 if options.float32 else 1e-6
    for listed in options.list or LISTS:
        table = kept.setdefault(listed, {})
        names = names_of(listed, options.max_n)
        if options.quick:
            names = names[:3]
        if options.problem:
            names = [n for n in names if n in options.problem]
        for name in tqdm(names, desc=listed, mininterval=10):
            with jax.enable_x64(not options.float32):
                problem = load(name, listed)
                records = table.setdefault(name, {})
                judged = judge(problem, listed)
                for contender, build in LISTS[listed].items():
                    if options.only in contender:
                        records[contender] = measure(problem, build, judged)
                        if options.problem:
                            print(name, contender, records[contender])
                if listed == "bounded" and options.outside:
                    records["jaxsolve minimize"]["evaluations_outside"] = (
                        evaluations_outside(problem)
                    )
        seen = {n: table[n] for n in table if n in names}
        for n in seen:  # the best in float64 counts in float32 too
            for contender, record in exact.get(listed, {}).get(n, {}).items():
                seen[n] = seen[n] | {f"{contender} (float64)": record}
        if listed == "equations":
            for kind, figures in roots(seen, rtol).items():
                show(f"{listed}, {kind}", figures)
        show(listed, summary(seen, listed, rtol))
        if not options.quick and not options.problem:
            profile(seen, listed, rtol, RESULTS / f"cutest_{listed}{suffix}.png")
        if not options.quick:
            out = {"family": "cutest", "steps": peers.STEPS} | environment()
            summaries[listed] = summary(seen, listed, rtol)
            out |= {"summary": summaries, "lists": kept}
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(legal(out), indent=1) + "\n")

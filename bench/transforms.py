"""Gradient transformations: time of an update, and bytes of state a parameter.

Every contender is compiled with its parameters and state donated, and adds its update
to them; gradients are fixed. Curvature is that of a diagonal quadratic, whose products
cost next to nothing: what is timed is the transformation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench._harness import interleave, target
from jaxsolve import transforms

SHAPES = {10**6: [(1000, 500), (500, 900), (50_000,)], 10**7: [(2000, 2500)] * 2}
RATE = 1e-4


def problem(size, dtype):
    """Give parameters, gradients, and a quadratic with its products."""
    keys = jax.random.split(jax.random.key(0), len(SHAPES[size]))
    draw = lambda key, shape: jax.random.normal(key, shape, dtype)
    params = [draw(k, s) for k, s in zip(keys, SHAPES[size], strict=True)]
    curvature = [jnp.abs(x) + jnp.asarray(0.1, dtype) for x in params]

    def value_fn(params):
        wide = lambda x: x.astype(jnp.float32)
        part = lambda c, x: jnp.sum(wide(c) * wide(x) ** 2) / 2
        return sum(map(part, curvature, params))

    grads = jax.grad(value_fn)(params)
    hvp = lambda v: [c.astype(u.dtype) * u for c, u in zip(curvature, v, strict=True)]
    return params, grads, {"value_fn": value_fn, "obj_fn": value_fn, "hvp": hvp}


def updater(transform, params, grads, extra):
    """Give a call that takes one step more, and the bytes of its state."""
    transform = optax.with_extra_args_support(transform)

    def step(params, state, grads):
        updates, state = transform.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    # Donated buffers are no one else's: constants of the state are copied too.
    held = jax.tree.map(jnp.copy, (params, transform.init(params)))
    size = sum(x.nbytes for x in jax.tree.leaves(held[1]) if hasattr(x, "nbytes"))
    with jax.numpy_dtype_promotion("standard"):  # optax's own need it
        compiled = step.lower(*held, grads).compile()
    holder = [held]

    def call():
        holder[0] = compiled(*holder[0], grads)
        return holder[0]

    return call, size


def measured(name, what, size, dtype, contenders, bounds, options):
    """Measure contenders, the first of them the reference of all ratios."""
    params, grads, extra = problem(size, dtype)
    calls, sizes = {}, {}
    for label, transform in contenders.items():
        calls[label], held = updater(transform, params, grads, extra)
        sizes[label] = held / size
        jax.block_until_ready(calls[label]())
    turns = interleave(list(calls.values()), options.repeats)
    seconds = dict(zip(calls, np.median(turns, 0), strict=True))
    labels = list(calls)
    ratio = lambda a, b: float(
        np.median(turns[:, labels.index(a)] / turns[:, labels.index(b)])
    )
    return {
        "row": f"{name}_{len(str(size)) - 1}_{jnp.dtype(dtype).name}",
        "problem": f"{what}, 1e{len(str(size)) - 1} parameters",
        "dtype": jnp.dtype(dtype).name,
        "notes": [
            f"{k}: {seconds[k] * 1e3:.2f} ms an update, "
            f"{sizes[k]:.2f} bytes of state a parameter, "
            f"{ratio(k, labels[0]):.2f}x {labels[0]}"
            for k in labels
        ],
        "seconds": seconds,
        "bytes": sizes,
        "targets": [
            target(f"time of {a} / {b}", ratio(a, b), "<=", goal)
            for a, b, goal in bounds
        ],
    }


def forms(options):
    """Give the sizes and dtypes of every comparison."""
    sizes = (10**6,) if options.quick else tuple(SHAPES)
    return [(n, d) for n in sizes for d in (jnp.float32, jnp.bfloat16)]


def signs(options):
    """Measure the Lion-K family and normalised steps beside optax's lion."""
    kappas = {
        "lion_k": None,
        "lion_k, Huber": transforms.huber_kappa(1e-3),
        "lion_k, smooth": transforms.smooth_kappa(1e-3),
        "lion_k, l2": transforms.lp_kappa(2.0),
    }
    for size, dtype in forms(options):
        contenders = {"optax lion": optax.lion(RATE, weight_decay=0.1)}
        for label, kappa in kappas.items():
            contenders[label] = transforms.lion_k(RATE, kappa, weight_decay=0.1)
        contenders["adagrad_norm"] = transforms.adagrad_norm(RATE)
        contenders["optax adamw"] = optax.adamw(RATE)
        bounds = [
            (label, "optax lion", 1.1)
            for label in ("lion_k", "lion_k, Huber", "lion_k, l2", "adagrad_norm")
        ]
        yield measured(
            "signs", "Lion-K and normalised steps", size, dtype, contenders, bounds,
            options,
        )  # fmt: skip


def curvature(options):
    """Measure AdaHessian beside optax's sophia, curvature as often."""
    for each in (1, 10):
        sophia = optax.contrib.sophia(RATE, update_interval=each)
        ours = transforms.adahessian(RATE, update_each=each)
        for size, dtype in forms(options):
            if dtype == jnp.bfloat16 and each == 1:
                continue
            yield measured(
                f"curvature_{each}",
                f"a Hessian diagonal every {each} updates",
                size,
                dtype,
                {"optax sophia": sophia, "adahessian": ours},
                [("adahessian", "optax sophia", 1.2)],
                options,
            )


def windows(options):
    """Measure M-FAC: seconds by memory and by parameters, and their slopes."""
    memories = (8, 16, 32, 64)
    sizes = (10**6,) if options.quick else tuple(SHAPES)
    for size in sizes:
        some = memories if size == 10**6 else memories[:2]
        contenders = {"optax adam": optax.adam(RATE)}
        for m in some:
            contenders[f"m_fac, m={m}"] = transforms.m_fac(RATE, memory=m)
        row = measured(
            "windows", "M-FAC by its memory", size, jnp.float32, contenders, [], options
        )
        times = [row["seconds"][f"m_fac, m={m}"] for m in some]
        slope = np.polyfit(np.log(some), np.log(times), 1)[0]
        row["targets"].append(
            target("slope of log time in log memory", slope, "<=", 1.1)
        )
        yield row


ROWS = {"signs": signs, "curvature": curvature, "windows": windows}

"""Training small networks: our transformations beside SGD, AdamW and Lion.

Everybody has the same budget of gradients on batches, five rates to choose from on
data held out, and three seeds. A product with a Hessian counts as a gradient, and so
does each gradient of a model inside an update.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench._harness import target
from bench._training import (
    characters,
    convolutions,
    perceptron,
    regressed,
    trained,
    tuned,
)
from jaxsolve import schedules, transforms

PEERS = ("SGD, momentum 0.9", "AdamW", "Lion")


def rates(largest):
    """Give five rates, half a decade apart."""
    return [largest * 10 ** (-i / 2) for i in range(5)]


def contenders():
    """Give every transformation: how it is made of a rate, its rates, its cost."""
    smooth = transforms.smooth_kappa(1e-3)
    surrogate = lambda r: transforms.target_surrogate(optax.adam(r), 64.0, steps=4)
    return {
        "SGD, momentum 0.9": (lambda r: optax.sgd(r, 0.9), rates(0.3), 1),
        "AdamW": (lambda r: optax.adamw(r, weight_decay=1e-2), rates(3e-2), 1),
        "Lion": (lambda r: optax.lion(r, weight_decay=0.1), rates(1e-2), 1),
        "lion_k, smooth": (
            lambda r: transforms.lion_k(r, smooth, weight_decay=0.1), rates(1e-2), 1,
        ),
        "adahessian": (transforms.adahessian, rates(0.5), 2),
        "m_fac, m=32": (
            lambda r: transforms.m_fac(r, 1e-3, memory=32, momentum=0.9),
            rates(3e-2),
            1,
        ),
        "adagrad_norm": (transforms.adagrad_norm, rates(10.0), 1),
        "rolling_ball, K=4": (
            lambda r: transforms.rolling_ball(r, 0.3, steps=4), rates(3.0), 4,
        ),
        "target_surrogate, m=4": (surrogate, rates(3e-2), 4),
        "perp_grad, Adam": (
            lambda r: optax.chain(transforms.perp_grad(), optax.adam(r)),
            rates(3e-2),
            1,
        ),
    }  # fmt: skip


def compared(name, what, task, budget, options, together=True):
    """Tune and train everybody on one task."""
    if options.quick:
        budget //= 20
    notes, found = [], {}
    for label, (make, some, cost) in contenders().items():
        best = tuned(task, make, some, budget // cost, together=together)
        found[label] = best._asdict()
        notes.append(
            f"{label}: test loss {best.test:.3f}, accuracy {best.accuracy:.1%}, "
            f"train loss {best.train:.2e} (rate {best.rate:.1e}, "
            f"{budget // cost} updates)"
        )
    ours = min(v["test"] for k, v in found.items() if k not in PEERS)
    peer = min(found[k]["test"] for k in PEERS)
    return {
        "row": name,
        "problem": f"{what}, {budget} gradients",
        "dtype": "float32",
        "notes": notes,
        "found": found,
        "targets": [target("test loss, our best / peers' best", ours / peer, "<=", 1)],
    }


def networks(options):
    """Compare everybody on digits, by layers and by convolutions."""
    yield compared(
        "perceptron", "digits, 64-32-32-10 network", perceptron(), 600, options
    )
    yield compared(
        "convolutions", "digits, two convolutions", convolutions(), 400, options, False
    )


def letters(options):
    """Compare everybody on the letters of the licence."""
    yield compared(
        "letters", "next letter of the licence", characters(), 1200, options, False
    )


def decays(options):
    """Compare schedules around two optimisers: the last iterate is what counts."""
    momentum = lambda schedule: optax.sgd(schedule, 0.9)
    net, convex = perceptron(), regressed(16)
    yield _decays(
        "convex", "softmax regression, SGD", convex, optax.sgd, 30.0, 2, options
    )
    yield _decays("sgd", "64-32-32-10 network, SGD", net, momentum, 1.0, 2, options)
    yield _decays(
        "adam", "64-32-32-10 network, Adam", net, optax.adam, 3e-2, 1, options
    )


def _decays(name, what, task, make, largest, power, options):
    """Compare schedules of one optimiser; the refined one knows an earlier run."""
    steps, some = 60 if options.quick else 600, rates(largest)
    shapes = {
        "constant": optax.constant_schedule(1.0),
        "cosine": optax.cosine_decay_schedule(1.0, steps),
        "linear_decay": schedules.linear_decay(1.0, steps),
    }
    judged = lambda shape: tuned(task, lambda r: make(_scaled(r, shape)), some, steps)
    found = {label: judged(shape) for label, shape in shapes.items()}
    base = make(_scaled(found["linear_decay"].rate, shapes["linear_decay"]))
    norm = lambda params, extra, state: optax.tree.norm(extra["grad"], ord=power)
    earlier = jax.jit(lambda key: trained(task, base, steps, key, norm)[1])
    refined = schedules.refined(earlier(jax.random.key(100)), power=power)
    found["refined"] = judged(refined)
    notes = [
        f"{label}: test loss {best.test:.4f}, train loss {best.train:.2e}, "
        f"accuracy {best.accuracy:.1%} (rate {best.rate:.1e})"
        for label, best in found.items()
    ]
    shown = range(0, steps, max(1, steps // 60))
    ratio = found["refined"].train / found["linear_decay"].train
    return {
        "row": f"decays_{name}",
        "problem": f"digits, {what}, {steps} steps",
        "dtype": "float32",
        "notes": notes,
        "found": {label: best._asdict() for label, best in found.items()},
        "refined": [float(refined(t)) for t in shown],
        "targets": [target("train loss, refined / linear decay", ratio, "<=", 1.0)],
    }


def _scaled(rate, shape):
    return lambda count: rate * jnp.asarray(shape(count), jnp.float32)


def spike(options):
    """Multiply a rate by up to 10,000 for some steps: with and without control."""
    task = perceptron(128, 1)
    steps, start, end = 200, 50, 100
    notes, found = [], {}
    for factor in (1e1, 1e3, 1e4):
        rate = lambda count, factor=factor: jnp.where(
            (count >= start) & (count < end), 1e-3 * factor, 1e-3
        ).astype(jnp.float32)
        makers = {
            "Adam": optax.adam(rate),
            "Adam, clipped to norm 1": optax.chain(
                optax.clip_by_global_norm(1.0), optax.adam(rate)
            ),
            "Adam, clip_by_softmax_radius": optax.chain(
                optax.adam(rate), transforms.clip_by_softmax_radius(0.5)
            ),
        }
        for label, transform in makers.items():
            run = jax.jit(
                lambda key, t=transform: trained(
                    task, t, steps, key, lambda p, e, s: task.loss(p, task.test)
                )
            )
            ends = []
            for seed in range(1 if options.quick else 3):
                params, losses = run(jax.random.key(seed))
                after = np.nan_to_num(np.asarray(losses), nan=np.inf)[start:]
                ends.append(
                    (after.max(), after[-1], float(task.accuracy(params, task.test)))
                )
            worst, last, accuracy = np.median(ends, 0)
            found[f"{label}, {factor:g}"] = [worst, last, accuracy]
            notes.append(
                f"x{factor:g} in steps {start} to {end}, {label}: worst test loss "
                f"{worst:.3g}, at the end {last:.3g}, accuracy {accuracy:.1%}"
            )
    ours = found["Adam, clip_by_softmax_radius, 10000"]
    yield {
        "row": "spike",
        "problem": "digits, 64-128-10 network, Adam at 1e-3, a spike of the rate",
        "dtype": "float32",
        "notes": notes,
        "found": found,
        "targets": [target("accuracy after a spike of 1e4", ours[2], ">=", 0.9)],
    }


ROWS = {"networks": networks, "letters": letters, "decays": decays, "spike": spike}

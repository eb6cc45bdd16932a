"""Lion-K, the rolling ball, the controllers by logits and margins, and surrogates."""

import jax.numpy as jnp
import optax

from jaxsolve import transforms
from tests.transforms.link import Link, extras

RATE = {"hyper": ("learning_rate", 0.1), "rate": "learning_rate"}
CHANGE = {"converges": False}  # lengths are fixed, or from_optax has not what it needs


def with_logits(fun, params):
    """Two classes, whose logits part as the objective grows."""
    logits_fn = lambda p: jnp.stack([fun(p), -fun(p)], axis=-1)[None]
    return {**extras(fun, params), "logits_fn": logits_fn}


def with_margins(fun, params):
    """Two samples, of which one is far from being classified correctly."""
    return {**extras(fun, params), "margins": jnp.stack([1 - fun(params), fun(params)])}


def with_targets(fun, params):
    """The model is the objective itself, and the loss the identity."""
    value = fun(params)
    return {
        **extras(fun, params),
        "target_fn": fun,
        "target_grad": jnp.ones_like(value),
        "target_value_fn": lambda z: z,
    }


def lion_k(kappa, **fixed):
    def make(learning_rate=0.1):
        return transforms.lion_k(learning_rate, kappa, weight_decay=0.0, **fixed)

    return make


def clip(**options):
    return optax.chain(
        optax.scale(-0.1), transforms.clip_by_softmax_radius(**{"window": 3, **options})
    )


def surrogate(stepsize=1e3, **options):
    return transforms.target_surrogate(
        optax.sgd(0.01, momentum=0.5), stepsize, steps=5, **options
    )


def ball(learning_rate=2.0, **options):
    return transforms.rolling_ball(
        learning_rate,
        0.2,
        steps=3,  # with more, what is left of the residual is rounding
        projection_stepsize=0.1,
        loss_scale=0.1,
        **options,
    )


MEMORY = {"per_param": 1}
NORMS = {  # those that are not alike, and whether steps have a fixed length
    "half_square": (transforms.half_square_kappa(), {}),
    "l3_leaves": (transforms.per_leaf_kappa(transforms.lp_kappa(3.0)), CHANGE),
    "top_k": (transforms.top_k_kappa(2), CHANGE),
    "nuclear": (transforms.nuclear_kappa(), CHANGE),
    "newton_schulz": (transforms.nuclear_kappa(8), CHANGE),
}
LOGITS = {"needs": ("logits_fn",), "extras": with_logits, **CHANGE}
TARGETS = {"needs": ("target_fn", "target_grad"), "extras": with_targets, **CHANGE}
LINKS = (
    Link("lion_k", lion_k(None), **RATE, **MEMORY, **CHANGE),
    Link("lion_k", lion_k(None, implicit=True), "implicit", **RATE, **MEMORY, **CHANGE),
    *(
        Link("lion_k", lion_k(kappa, b1=0.5, b2=0.6), name, **RATE, **MEMORY, **change)
        for name, (kappa, change) in NORMS.items()
    ),
    Link(
        "scale_by_lion_k",
        lambda b1=0.5: optax.chain(
            transforms.scale_by_lion_k(transforms.half_square_kappa(), b1, 0.6),
            optax.scale(-0.1),
        ),
        hyper=("b1", 0.25),
        **MEMORY,
    ),
    Link(
        "rolling_ball",
        ball,
        hyper=("learning_rate", 1.0),
        rate="learning_rate",
        needs=("value", "grad", "value_fn"),
    ),
    Link(
        "rolling_ball",
        lambda **o: ball(normalize=True, **o),
        "normalized",
        hyper=("learning_rate", 1.0),
        rate="learning_rate",
        needs=("value", "grad", "value_fn"),
        rtol=1e-4,  # heights of the graph cancel
        **CHANGE,
    ),
    Link("clip_by_softmax_radius", clip, hyper=("target", 1.0), **LOGITS),
    Link(
        "clip_by_softmax_radius",
        lambda **o: clip(quantile=0.9, difference=1e-2, **o),
        "difference",
        hyper=("target", 1.0),
        **{**LOGITS, "rtol": 2e-2},  # of a quotient in float32
    ),
    Link(
        "scale_to_softmax_radius",
        lambda target=0.05: optax.chain(
            optax.scale(-1.0), transforms.scale_to_softmax_radius(target, max_norm=1.0)
        ),
        hyper=("target", 0.05),
        **LOGITS,
    ),
    Link(
        "scale_by_logit_spread",
        lambda cap=1.0: optax.chain(
            optax.scale(-0.1), transforms.scale_by_logit_spread(0.01, cap)
        ),
        hyper=("cap", 0.1),
        **LOGITS,
    ),
    Link(
        "normalized_logistic",
        lambda learning_rate=0.1: transforms.normalized_logistic(learning_rate),
        **RATE,
        needs=("margins",),
        extras=with_margins,
        **CHANGE,
    ),
    Link(
        "scale_by_normalized_logistic",
        lambda: optax.chain(
            transforms.scale_by_normalized_logistic(), optax.scale(-0.1)
        ),
        needs=("margins",),
        extras=with_margins,
        **CHANGE,
    ),
    Link(
        "target_surrogate",
        surrogate,
        hyper=("stepsize", 0.5),
        rate="stepsize",
        **TARGETS,
    ),
    Link(
        "target_surrogate",
        lambda scale=1.0: surrogate(transforms.adagrad_target_step(scale)),
        "adagrad",
        hyper=("scale", 2.0),
        **TARGETS,
    ),
    Link(
        "target_surrogate",
        lambda shrink=0.9: surrogate(transforms.armijo_target_step(shrink=shrink)),
        "armijo",
        hyper=("shrink", 0.8),
        **{**TARGETS, "needs": ("target_fn", "target_grad", "target_value_fn")},
    ),
)

"""Gives each of two photographs the colours of the other, by transport."""

import time
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import transport

# In squared units of colour; the mean cost between the photographs is 0.8.
EPSILON = 3e-3
BLOCK = 256  # points of one side at a time, against all of the other
SLICES = 32  # of the distance between colours
THIN = 4  # of the pixels for that: one in so many, of rows and of columns


class Transfer(NamedTuple):
    """What came out."""

    pictures: tuple[np.ndarray, np.ndarray]  # (h, w, 3) each, real in [0, 1].
    results: tuple[np.ndarray, np.ndarray]  # the same in the colours of the other.
    pixels: int  # of each picture that were transported.
    count: int  # pairs of passes over all pairs of pixels.
    compiled: float  # seconds
    solved: float  # seconds
    mapped: float  # seconds for all pixels of both pictures
    memory: int  # bytes that the compiled solve allocates
    error: float  # of the marginals
    converged: bool
    gap: float  # largest difference of the map at sampled pixels and the plan's means
    before: float  # distance between the colours of the pictures
    after: tuple[float, float]  # of each result from the colours it was to take


def transfer(pixels: int, stride: int, seed: int, progress) -> Transfer:
    """Transports a sample of pixels, and maps all pixels by the potentials."""
    from sklearn.datasets import load_sample_image

    names = "china.jpg", "flower.jpg"
    pictures = tuple(
        load_sample_image(name)[::stride, ::stride] / np.float32(255) for name in names
    )
    rng = np.random.default_rng(seed)
    x, y = (
        jnp.asarray(rng.choice(picture.reshape(-1, 3), pixels, replace=False))
        for picture in pictures
    )
    began = time.perf_counter()
    compiled = jax.jit(solve).lower(x, y).compile()
    ready = time.perf_counter()
    progress()
    solution, sent = jax.block_until_ready(compiled(x, y))
    solved = time.perf_counter()
    progress()
    f, g = jax.jit(lambda solution: solution.potentials)(solution)
    ways = (y, g), (x, f)
    began_map = time.perf_counter()
    results = tuple(
        repainted(picture, *way) for picture, way in zip(pictures, ways, strict=True)
    )
    mapped = time.perf_counter() - began_map
    progress()
    usage = compiled.memory_analysis()
    return Transfer(
        pictures,
        results,
        pixels,
        int(solution.count),
        ready - began,
        solved - ready,
        mapped,
        usage.temp_size_in_bytes
        + usage.argument_size_in_bytes
        + usage.output_size_in_bytes,
        float(solution.marginal_error),
        bool(solution.converged),
        float(jnp.max(jnp.abs(entropic_map(x, *ways[0]) - sent))),
        distance(*pictures),
        (distance(results[0], pictures[1]), distance(results[1], pictures[0])),
    )


def solve(
    x: chex.Array, y: chex.Array
) -> tuple[transport.TransportSolution, chex.Array]:
    """Transports pixels, never keeping all costs: the solution, where each goes."""
    cloud = transport.PointCloud(x, y, block=BLOCK)
    solution = transport.solve(cloud, epsilon=EPSILON)
    return solution, solution.push(y)


@jax.jit
def entropic_map(
    points: chex.Array, others: chex.Array, potential: chex.Array
) -> chex.Array:
    """Where the plan would send any points, of the sample or not: their mean targets.

    Pooladian and Niles-Weed's estimator: targets are weighted by exp((g - C) / epsilon)
    with the potential g that the plan has there.
    """
    # The square of the point itself is the same for all targets, and cancels.
    potential = potential - jnp.sum(others**2, axis=1)

    def one(point):
        towards = jnp.matmul(others, point, precision=jax.lax.Precision.HIGHEST)
        return jax.nn.softmax((potential + 2 * towards) / EPSILON) @ others

    return jax.lax.map(one, points, batch_size=BLOCK)


def repainted(picture: np.ndarray, others, potential) -> np.ndarray:
    """Maps every pixel of a picture; each colour that occurs once."""
    colours, index = np.unique(picture.reshape(-1, 3), axis=0, return_inverse=True)
    found = np.asarray(entropic_map(jnp.asarray(colours), others, potential))
    return found[index.ravel()].reshape(picture.shape)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """The sliced Wasserstein distance between the colours of two pictures."""
    thin = (picture[::THIN, ::THIN] for picture in (one, other))
    points = (jnp.asarray(picture.reshape(-1, 3)) for picture in thin)
    square = transport.sliced_wasserstein(*points, key=jax.random.key(0), slices=SLICES)
    return float(jnp.sqrt(square))

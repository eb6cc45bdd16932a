"""The strictest JAX there is, on eight host devices."""

import gc
import os
import zlib

# Before JAX makes its devices. Little optimisation: the suite compiles far more than
# it computes.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    + " --xla_backend_optimization_level=1"
)
os.environ.setdefault("MPLBACKEND", "agg")

import jax
import numpy as np
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def same_numbers(request):
    """Draws the random numbers of a test alike, whatever ran before it."""
    module = getattr(request, "module", None)
    if hasattr(module, "RNG"):
        seed = zlib.crc32(request.node.name.encode())
        module.RNG = np.random.default_rng(seed)


_TESTS = [0]


@pytest.fixture(autouse=True)
def forget():
    """Frees what was compiled, now and then: the suite would take many gigabytes."""
    yield
    _TESTS[0] += 1
    if _TESTS[0] % 100 == 0:
        jax.clear_caches()
        gc.collect()

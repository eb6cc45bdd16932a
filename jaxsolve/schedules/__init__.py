"""Laws of stepsizes, which are optax schedules, and of batch sizes."""

from jaxsolve.schedules._batch_size import (
    BatchSizeController,
    BatchSizeState,
    adaptive_batch_size,
)
from jaxsolve.schedules._batch_statistics import (
    BatchStatistics,
    batch_statistics,
    chunked_statistics,
    merge_statistics,
)
from jaxsolve.schedules._batch_tests import (
    BatchTest,
    augmented_test,
    coordinate_test,
    inner_product_test,
    is_settled,
    norm_test,
    orthogonality_test,
    standard_error,
)
from jaxsolve.schedules._last_iterate import (
    convex_last_iterate,
    last_iterate_scale,
    nonsmooth_last_iterate,
    strongly_convex_last_iterate,
)
from jaxsolve.schedules._last_iterate_bound import last_iterate_bound, refined_bound
from jaxsolve.schedules._linear_decay import linear_decay, tabulated, warmup
from jaxsolve.schedules._random_matrix import (
    batch_eigenvalue,
    heavy_ball,
    linear_scaling,
    max_learning_rate,
    spectral_scaling,
    square_root_scaling,
    stability_margin,
)
from jaxsolve.schedules._refined import refined, refined_stepsize
from jaxsolve.schedules._step_law import (
    Fit,
    Recommendation,
    StepLaw,
    fit_step_law,
    step_law,
    step_law_schedule,
)

__all__ = (
    "BatchSizeController",
    "BatchSizeState",
    "BatchStatistics",
    "BatchTest",
    "Fit",
    "Recommendation",
    "StepLaw",
    "adaptive_batch_size",
    "augmented_test",
    "batch_eigenvalue",
    "batch_statistics",
    "chunked_statistics",
    "convex_last_iterate",
    "coordinate_test",
    "fit_step_law",
    "heavy_ball",
    "inner_product_test",
    "is_settled",
    "last_iterate_bound",
    "last_iterate_scale",
    "linear_decay",
    "linear_scaling",
    "max_learning_rate",
    "merge_statistics",
    "nonsmooth_last_iterate",
    "norm_test",
    "orthogonality_test",
    "refined",
    "refined_bound",
    "refined_stepsize",
    "spectral_scaling",
    "square_root_scaling",
    "stability_margin",
    "standard_error",
    "step_law",
    "step_law_schedule",
    "strongly_convex_last_iterate",
    "tabulated",
    "warmup",
)

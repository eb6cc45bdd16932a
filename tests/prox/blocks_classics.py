"""Cases of the operators that sort, solve or decompose."""

import numpy as np
from scipy import special

from jaxsolve import prox
from tests.prox.block import ROWS, Case, inside, tree

COLUMN = np.array([[0.3], [0.9], [1.5], [0.6]])
FALLING = np.array([2.0, 1.4, 1.1, 0.7, 0.4, 0.2, 0.1])
NORMAL = np.array([1.0, -2.0, 0.5, 1.0, 0.3, 3.0, -1.0])


def rises(x, axis=-1):
    return max(np.max(-np.diff(x, axis=axis), initial=0), 0)


def fall(x):
    return np.sort(x)[::-1]


def variation(x, w, axis=-1):
    return np.sum(w * np.sum(np.abs(np.diff(x, axis=axis)), axis, keepdims=True))


def half_k_support(x, w, k):
    """Half the squared norm, by the formula of Argyriou, Foygel and Srebro."""
    z = fall(np.abs(x.ravel()))
    if k >= len(z):
        return w / 2 * np.sum(z**2)
    for r in range(k):
        tail = np.sum(z[k - r - 1 :])
        above = np.inf if k == r + 1 else z[k - r - 2]
        if above >= tail / (r + 1) >= z[k - r - 1]:
            break
    return w / 2 * (np.sum(z[: k - r - 1] ** 2) + tail**2 / (r + 1))


def huber(x, w, d):
    size = np.abs(x)
    return w * np.sum(np.where(size <= d, size**2 / 2, d * (size - d / 2)))


def barrier(x, w):
    return np.inf if np.any(x <= 0) else -w * np.sum(np.log(x))


def in_section(x, low, up, b, a=1.0):
    box = max(np.max(low - x), np.max(x - up))
    return inside(max(box, np.max(np.abs(np.sum(a * x, -1, keepdims=True) - b))))


def in_permutahedron(x, w):
    gap = np.cumsum(fall(x)) - np.cumsum(fall(w))
    return inside(max(np.max(gap), -gap[-1]))


def in_psd_cone(x):
    crooked = np.max(np.abs(x - x.T))
    return inside(max(crooked, -np.min(np.linalg.eigvalsh((x + x.T) / 2))))


def in_sparse_simplex(x, r, k):
    many = np.sum(np.abs(x) > 1e-9) > k
    return inside(max(np.max(-x), abs(np.sum(x) - r), many))


CASES = [
    Case("l1 of data", "of_data",
         lambda w: prox.resolve(prox.of_data(prox.l1), w), (0.7,),
         lambda x, w: w * np.sum(np.abs(x)), line=(0.7,), conjugate=prox.linf_ball),
    Case("tilted orthant", "add_linear",
         lambda a: prox.add_linear(prox.non_negative(), tree(a)), (NORMAL,),
         lambda x, a: np.sum(a * x) + inside(-x)),
    Case("projection of the user", "from_projection",
         lambda lo, up: prox.from_projection(prox.box(lo, up)), (-0.5, 0.8),
         lambda x, lo, up: inside(np.maximum(lo - x, x - up)), projection=True,
         line=(-0.5, 0.8)),
    Case("huber", "huber", prox.huber, (0.7, 0.6), huber, line=(0.7, 0.6),
         conjugate=lambda w, d: prox.add_quadratic(prox.linf_ball(w * d), 1 / w)),
    Case("log barrier", "log_barrier", prox.log_barrier, (0.7,), barrier, line=(0.7,)),
    Case("entropy", "entropy", prox.entropy, (0.7,),
         lambda x, w: -w * np.sum(special.entr(x)), line=(0.7,)),
    Case("nuclear norm", "nuclear_norm", prox.nuclear_norm, (0.9,),
         lambda x, w: w * np.sum(np.linalg.svd(x)[1]), params=ROWS),
    Case("nuclear norms of a stack", "nuclear_norm", prox.nuclear_norm,
         (np.array([[[0.5]], [[1.1]]]),),
         lambda x, w: np.sum(w[..., 0] * np.linalg.svd(x)[1]), params=(2, 2, 3)),
    Case("psd cone", "psd_cone", prox.psd_cone, (), in_psd_cone, params=(3, 3),
         projection=True),
    Case("second-order cone", "second_order_cone", prox.second_order_cone, (),
         lambda x: inside(np.linalg.norm(x[1:]) - x[0]), projection=True, line=(),
         conjugate=lambda: prox.scale_argument(prox.second_order_cone(), -1.0)),
    Case("second-order cones of rows", "second_order_cone",
         lambda: prox.second_order_cone(axis=1), (),
         lambda x: inside(np.linalg.norm(x[:, 1:], axis=1) - x[:, 0]), params=ROWS,
         projection=True),
    Case("isotonic", "isotonic", prox.isotonic, (), lambda x: inside(rises(x)),
         projection=True, line=()),
    Case("bounded falling columns", "isotonic",
         lambda lo, up: prox.isotonic(increasing=False, lower=lo, upper=up, axis=0),
         (-0.4, 0.9),
         lambda x, lo, up: inside(max(rises(-x, 0), np.max(lo - x), np.max(x - up))),
         params=ROWS, projection=True),
    Case("permutahedron", "permutahedron", prox.permutahedron, (FALLING,),
         in_permutahedron, projection=True, line=(np.array([0.7]),)),
    Case("permutahedra of rows", "permutahedron",
         lambda w: prox.permutahedron(w, axis=1), (FALLING[:3],),
         lambda x, w: max(in_permutahedron(row, w) for row in x), params=ROWS,
         projection=True),
    Case("sorted l1", "sorted_l1", prox.sorted_l1, (FALLING,),
         lambda x, w: np.sum(w * fall(np.abs(x))), line=(np.array([0.7]),)),
    Case("sorted l1 of rows", "sorted_l1", lambda w: prox.sorted_l1(w, axis=1),
         (FALLING[:3],), lambda x, w: sum(np.sum(w * fall(np.abs(v))) for v in x),
         params=ROWS),
    Case("k-support", "k_support", lambda w: prox.k_support(3, w), (0.7,),
         lambda x, w: half_k_support(x, w, 3), line=(0.7,)),
    Case("k-support of rows", "k_support",
         lambda w: prox.k_support(1, w, axis=1), (COLUMN,),
         lambda x, w: sum(map(half_k_support, x, w[:, 0], [1] * 4)), params=ROWS),
    Case("box section", "box_section",
         lambda lo, up, a, b: prox.box_section(lo, up, tree(a), b),
         (-0.5, 0.8, NORMAL, 1.3),
         lambda x, lo, up, a, b: in_section(x, lo, up, b, a), projection=True),
    Case("box sections of rows", "box_section",
         lambda lo, b: prox.box_section(lo, np.array([1.0, np.inf, 0.7]), 1.0, b,
                                        axis=1),
         (-COLUMN, COLUMN), lambda x, lo, b: in_section(
             x, lo, np.array([1.0, np.inf, 0.7]), b), params=ROWS, projection=True),
    Case("box section of a line", "box_section", prox.box_section,
         (-2.0, 1.0, 2.0, 1.0), lambda x, lo, up, a, b: in_section(x, lo, up, b, a),
         params=(2,), projection=True, line=(-2.0, 1.0, 2.0, 1.0)),
    Case("total variation", "total_variation", prox.total_variation, (0.7,), variation,
         line=(0.7,)),
    Case("total variation of columns", "total_variation",
         lambda w: prox.total_variation(w, axis=0), (np.array([[0.2, 0.5, 1.3]]),),
         lambda x, w: variation(x, w, 0), params=ROWS),
    Case("sparse simplex", "sparse_simplex", lambda r: prox.sparse_simplex(3, r),
         (1.5,), lambda x, r: in_sparse_simplex(x, r, 3), projection=True,
         convex=False, line=(1.5,)),
    Case("l1 sphere", "l1_sphere", prox.l1_sphere, (1.5,),
         lambda x, r: inside(abs(np.sum(np.abs(x)) - r)), projection=True,
         convex=False, line=(1.5,)),
    Case("l2 spheres of rows", "l2_sphere", lambda r: prox.l2_sphere(r, axis=1),
         (COLUMN,), lambda x, r: inside(np.abs(np.linalg.norm(
             x, axis=1, keepdims=True) - r)), params=ROWS, projection=True,
         convex=False),
    Case("l2 sphere", "l2_sphere", prox.l2_sphere, (1.5,),
         lambda x, r: inside(abs(np.linalg.norm(x) - r)), projection=True,
         convex=False, line=(1.5,)),
]  # fmt: skip

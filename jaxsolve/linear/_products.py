"""Products with second-order matrices, linearised once and taken often."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxsolve.linear._operator import Product, check_count


def hessian_product(
    fun: Callable[[chex.ArrayTree], chex.Array], params: chex.ArrayTree
) -> Product:
    r"""Makes the product with a Hessian.

    Computes :math:`v \mapsto \nabla^2 f(x) v`. The gradient is linearised here, once,
    and each product evaluates its linear part only. ``jax.linearize(jax.grad(fun),
    params)`` gives the gradient as well.

    Args:
        fun: :math:`f`, as ``fun(params) -> scalar``, twice differentiable.
        params: :math:`x`.

    Returns:
        The product, a function of trees like params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import linear
        >>> product = linear.hessian_product(lambda x: jnp.sum(x**4), jnp.ones(2))
        >>> print(product(jnp.array([1.0, 2.0])))
        [12. 24.]

    References:
        Pearlmutter, `Fast Exact Multiplication by the Hessian
        <https://doi.org/10.1162/neco.1994.6.1.147>`_, 1994.
    """
    return jax.linearize(jax.grad(fun), params)[1]


def gauss_newton_product(
    model: Callable[[chex.ArrayTree], chex.ArrayTree],
    loss: Callable[[chex.ArrayTree], chex.Array],
    params: chex.ArrayTree,
) -> Product:
    r"""Makes the product with a generalised Gauss-Newton matrix.

    With :math:`J` the Jacobian of the outputs :math:`z(x)`, computes

    .. math::

        v \mapsto J^\top \nabla^2 \ell(z) J v

    which is positive semi-definite where the loss is convex in the outputs, and the
    Hessian where the outputs are linear in params or the loss has a zero gradient. It
    is the Fisher matrix if the loss is the negative log-likelihood of an exponential
    family and the outputs are its natural parameters: softmax and logits, say.

    Args:
        model: :math:`z`, as ``model(params) -> outputs``, on one batch.
        loss: :math:`\ell`, as ``loss(outputs) -> scalar``; its mean or sum over the
            batch is that of the matrix.
        params: :math:`x`.

    Returns:
        The product, a function of trees like params. The model is linearised here,
        once; a product costs about three evaluations of it.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import linear
        >>> product = linear.gauss_newton_product(
        ...     lambda x: x**2, lambda z: jnp.sum(z**2) / 2, jnp.array([1.0, 3.0]))
        >>> print(product(jnp.ones(2)))
        [ 4. 36.]

    References:
        Schraudolph, `Fast Curvature Matrix-Vector Products for Second-Order Gradient
        Descent <https://doi.org/10.1162/08997660260028683>`_, 2002.
    """
    outputs, push = jax.linearize(model, params)
    curve = jax.linearize(jax.grad(loss), outputs)[1]
    return _pulled_back(push, curve, params)


def fisher_product(
    model: Callable[[chex.ArrayTree], chex.ArrayTree],
    cross_entropy: Callable[[chex.ArrayTree, chex.ArrayTree], chex.Array],
    params: chex.ArrayTree,
) -> Product:
    r"""Makes the product with a Fisher information matrix.

    For outputs :math:`z(x)` that name a distribution :math:`p_z`, with Jacobian
    :math:`J`, and the cross-entropy :math:`c(z, w) = -\mathbb{E}_{y \sim p_z} \log
    p_w(y)`, computes

    .. math::

        v \mapsto J^\top \big( \nabla_w^2 c(z, w) |_{w = z} \big) J v

    No label takes part. Kullback and Leibler's divergence will do for c: the two
    differ by what does not depend on w.

    Args:
        model: :math:`z`, as ``model(params) -> outputs``, on one batch.
        cross_entropy: :math:`c`, as ``cross_entropy(outputs, other) -> scalar``; its
            mean or sum over the batch is that of the matrix.
        params: :math:`x`.

    Returns:
        The product, a function of trees like params.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxsolve import linear
        >>> softmax = lambda z, w: optax.losses.softmax_cross_entropy(
        ...     w, jax.nn.softmax(z))
        >>> product = linear.fisher_product(lambda x: x, softmax, jnp.zeros(2))
        >>> print(product(jnp.array([1.0, 0.0])))
        [ 0.25 -0.25]

    References:
        Martens, `New Insights and Perspectives on the Natural Gradient Method
        <https://arxiv.org/abs/1412.1193>`_, 2020.
    """
    outputs, push = jax.linearize(model, params)
    fixed = jax.lax.stop_gradient(outputs)
    slope = jax.grad(lambda other: cross_entropy(fixed, other))
    return _pulled_back(push, jax.linearize(slope, outputs)[1], params)


def monte_carlo_fisher_product(
    model: Callable[[chex.ArrayTree], chex.ArrayTree],
    losses: Callable[[chex.ArrayTree, chex.ArrayTree], chex.Array],
    sample: Callable[[chex.PRNGKey, chex.ArrayTree], chex.ArrayTree],
    params: chex.ArrayTree,
    *,
    key: chex.PRNGKey,
    samples: int = 1,
) -> Product:
    r"""Makes the product with a Fisher matrix of labels drawn from the model.

    With labels :math:`y_{is}` drawn from :math:`p_{z_i}` and the gradients
    :math:`g_{is}` in params of :math:`-\log p_{z_i}(y_{is})`, over B examples and S
    samples, computes

    .. math::

        v \mapsto \frac{1}{B S} \sum_{i, s} g_{is} g_{is}^\top v

    the mean of which is that of :func:`fisher_product` over the batch.

    Args:
        model: :math:`z`, as ``model(params) -> outputs``, on one batch.
        losses: the negative log-likelihoods, as ``losses(outputs, labels) -> (B,)``.
        sample: draws labels, as ``sample(key, outputs) -> labels``.
        params: :math:`x`.
        key: of the labels.
        samples: :math:`S`, at least one; each is linearised, on one model.

    Returns:
        The product, a function of trees like params.

    Raises:
        ValueError: if `samples` is no positive integer.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxsolve import linear
        >>> losses = optax.losses.softmax_cross_entropy_with_integer_labels
        >>> product = linear.monte_carlo_fisher_product(
        ...     lambda x: x, losses, jax.random.categorical, jnp.zeros((1, 2)),
        ...     key=jax.random.key(0))
        >>> print(product(jnp.array([[1.0, 0.0]])))  # here that of any label
        [[ 0.25 -0.25]]

    References:
        Martens, `New Insights and Perspectives on the Natural Gradient Method
        <https://arxiv.org/abs/1412.1193>`_, 2020.
    """
    check_count("samples", samples)
    keys = jax.random.split(key, samples)

    def drawn(params):
        outputs = model(params)
        fixed = jax.lax.stop_gradient(outputs)
        labels = jax.vmap(lambda key: sample(key, fixed))(keys)
        return jax.vmap(lambda y: losses(outputs, y))(labels)

    return empirical_fisher_product(drawn, params)


def empirical_fisher_product(
    losses: Callable[[chex.ArrayTree], chex.Array], params: chex.ArrayTree
) -> Product:
    r"""Makes the product with the mean of squares of gradients.

    With the gradients :math:`g_i` of the losses of B examples, computes

    .. math::

        v \mapsto \frac1B \sum_i g_i g_i^\top v

    The labels are those of the data: it is another matrix than the Fisher matrix, and
    vanishes where the examples are fitted.

    Args:
        losses: as ``losses(params)``, an array of the losses of the examples.
        params: :math:`x`.

    Returns:
        The product, a function of trees like params. The losses are linearised here,
        once; no gradient is stored.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import linear
        >>> rows = jnp.array([[1.0, 2.0], [3.0, 0.0]])
        >>> product = linear.empirical_fisher_product(lambda x: rows @ x, jnp.zeros(2))
        >>> print(product(jnp.array([1.0, 0.0])))
        [5. 1.]

    References:
        Kunstner, Hennig and Balles, `Limitations of the Empirical Fisher Approximation
        for Natural Gradient Descent <https://arxiv.org/abs/1905.12558>`_, 2019.
    """
    values, push = jax.linearize(losses, params)
    return _pulled_back(push, lambda u: u / jnp.asarray(values.size, u.dtype), params)


def _pulled_back(push, curve, params):
    pull = jax.linear_transpose(push, params)
    return lambda vector: pull(curve(push(vector)))[0]

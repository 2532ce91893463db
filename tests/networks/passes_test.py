"""Pooling and the norm are those of JAX, with their derivatives to second order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dc_jax.networks.passes import EPSILON, average_pool, normalise_channels

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _plain_pool(x):
    rows, columns = (2 * (size // 2) for size in x.shape[1:3])
    x = x[:, :rows, :columns]
    return sum(x[:, i::2, j::2] for i in range(2) for j in range(2)) / 4


def _plain_norm(x, scale):
    mean = jnp.mean(x, (1, 2), keepdims=True)
    variance = jnp.var(x, (1, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(variance + EPSILON) * scale.reshape(1, 1, 1, -1)


def _derivatives(function):
    """A function of x, and of a scale or not, that needs second derivatives."""

    def norm_of_gradients(*args):
        def loss(*args):
            return jnp.sum(jnp.sin(function(*args)))

        grads = jax.grad(loss, tuple(range(len(args))))(*args)
        return sum(jnp.sum(jnp.cos(grad)) for grad in grads)

    def all_orders(*args):
        value, grads = jax.value_and_grad(norm_of_gradients, tuple(range(len(args))))(
            *args
        )
        return function(*args), value, grads

    return jax.jit(all_orders)


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (2, 5, 7, 3), (1, 1, 2, 1)])
@pytest.mark.parametrize("name", ["pool", "norm"])
def test_derivatives_are_those_of_jax(name, shape):
    rng = np.random.default_rng(0)
    args = [jnp.asarray(3 + rng.normal(size=shape))]
    ours, plain = average_pool, _plain_pool
    if name == "norm":
        args.append(jnp.asarray(rng.normal(size=shape[-1])))
        ours, plain = normalise_channels, _plain_norm
    expected, got = _derivatives(plain)(*args), _derivatives(ours)(*args)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
        got,
        expected,
    )
    modes = ["fwd", "rev"] if name == "pool" else ["rev"]
    check_grads(ours, args, order=2, modes=modes)


def test_vmap_equals_a_loop():
    rng = np.random.default_rng(0)
    x, scale = rng.normal(size=(3, 2, 4, 4, 2)), rng.normal(size=(3, 2))

    def function(x, scale):
        return average_pool(normalise_channels(x, scale))

    every = _derivatives(function)
    loop = [every(*one) for one in zip(x, scale, strict=True)]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *loop)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
        jax.vmap(every)(x, scale),
        expected,
    )

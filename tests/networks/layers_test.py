"""The layers that networks are made of, by hand and against flax."""

from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dc_jax.networks import layers

pytestmark = pytest.mark.usefixtures("quick_compile")


def _draw(shape):
    return np.random.RandomState(1).normal(size=shape).astype(np.float32)


def test_local_response_norm_by_hand():
    x = np.array([3.0, -10.0, 20.0, 40.0, 5.0, 60.0], np.float32)
    # Channels c - 2 to c + 1, a quarter of their squares, those outside being 0.
    sums = [9 + 100, 9 + 100 + 400, 9 + 100 + 400 + 1600, 100 + 400 + 1600 + 25]
    sums += [400 + 1600 + 25 + 3600, 1600 + 25 + 3600]
    expected = x / (1 + 0.001 / 9 * np.array(sums) / 4) ** 0.75
    actual = layers.local_response_norm(jnp.tile(x, (2, 3, 1, 1)))
    np.testing.assert_allclose(actual, np.tile(expected, (2, 3, 1, 1)), rtol=1e-6)
    assert layers.local_response_norm(jnp.ones((1, 1, 1, 4), "bfloat16")).dtype == (
        jnp.bfloat16
    )


@pytest.mark.parametrize("side", [1, 5, 6])
def test_overlapping_max_pool_is_that_of_flax_and_has_one_gradient_a_window(side):
    x = _draw((2, side, side + 1, 3))
    expected = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    np.testing.assert_array_equal(layers.overlapping_max_pool(x), expected)
    # Among equals the first takes it, as in PyTorch.
    grads = jax.grad(lambda x: layers.overlapping_max_pool(x).sum())(jnp.ones_like(x))
    first = np.zeros(x.shape, np.float32)
    for i in range(expected.shape[1]):
        for j in range(expected.shape[2]):
            first[:, max(0, 2 * i - 1), max(0, 2 * j - 1)] += 1
    np.testing.assert_array_equal(grads, first)


@pytest.mark.parametrize(
    ("kind", "groups", "axes"),
    [("instance", 8, (1, 2)), ("group", 4, (1, 2, 4)), ("layer", 1, (1, 2, 3))],
)
def test_norms_divide_by_the_deviation_of_their_group(kind, groups, axes):
    x = 3 + 0.1 * _draw((2, 5, 4, 8))
    grouped = x.reshape(2, 5, 4, groups, -1) if kind == "group" else x
    mean = np.mean(grouped, axes, keepdims=True)
    variance = np.mean((grouped - mean) ** 2, axes, keepdims=True)
    expected = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    module = _Layer(lambda x: layers.norm(x, kind, train=False))
    got, variables = module.init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    affine_shape = x.shape[1:] if kind == "layer" else x.shape[3:]
    for leaf in jax.tree.leaves(variables):
        assert leaf.shape == affine_shape


class _Layer(nn.Module):
    """A function of `layers`, which wants to be called from a module."""

    function: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x):
        return self.function(x)


def test_batch_norm_moves_its_statistics_a_tenth_of_the_way():
    x = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(2, 2, 1, 1)  # mean 3, variance 3.5
    module = layers.BatchNorm()
    variables = module.init(jax.random.key(0), x, train=True)
    chex.assert_trees_all_equal(
        variables["batch_stats"], {"mean": jnp.zeros(1), "var": jnp.ones(1)}
    )
    y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, (x - 3) / np.sqrt(3.5 + 1e-5), rtol=1e-6)
    # The unbiased variance is 14 / 3.
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [0.3], rtol=1e-6)
    np.testing.assert_allclose(
        updated["batch_stats"]["var"], [0.9 + 1.4 / 3], rtol=1e-6
    )
    y = module.apply(variables | updated, x, train=False)
    expected = (x - 0.3) / np.sqrt(0.9 + 1.4 / 3 + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_activations():
    x = jnp.array([-2.0, 0.0, 1.0])
    expected = {
        "relu": [0, 0, 1],
        "leaky_relu": [-0.02, 0, 1],
        "sigmoid": [1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-1))],
        "swish": [-2 / (1 + np.exp(2)), 0, 1 / (1 + np.exp(-1))],
    }
    assert set(expected) == set(layers.ACTIVATIONS)
    for kind, values in expected.items():
        np.testing.assert_allclose(layers.ACTIVATIONS[kind](x), values, rtol=1e-6)


def test_pooling_leaves_out_an_odd_row_and_column():
    x = jnp.arange(15.0).reshape(1, 3, 5, 1)
    np.testing.assert_array_equal(layers.pool(x, "max")[0, :, :, 0], [[6, 8]])
    np.testing.assert_array_equal(layers.pool(x, "average")[0, :, :, 0], [[3, 5]])
    np.testing.assert_array_equal(layers.pool(x, "none"), x)


def test_gradient_of_max_pooling_goes_to_the_first_of_equals():
    x = jnp.array([[1.0, 1.0, 0.0, 2.0], [1.0, 1.0, 2.0, 2.0]]).reshape(1, 2, 4, 1)
    grad = jax.grad(lambda x: jnp.sum(layers.pool(x, "max")))(x)
    np.testing.assert_array_equal(grad[0, :, :, 0], [[1, 0, 0, 1], [0, 0, 0, 0]])


def test_unknown_poolings_are_refused():
    with pytest.raises(ValueError, match="must be one of none, max, .* got 'tanh'"):
        layers.pool(jnp.zeros((1, 2, 2, 1)), "tanh")

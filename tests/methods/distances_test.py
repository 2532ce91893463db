"""Distances between gradients against values by hand, and where they are singular."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dc_jax.config import DISTANCES
from dc_jax.methods import distances

EPSILON = 1e-6
pytestmark = pytest.mark.usefixtures("quick_compile")
match_loss = jax.jit(distances.match_loss, static_argnums=2)
layer_distance = jax.jit(distances.layer_distance)
value_and_grad = jax.jit(jax.value_and_grad(distances.layer_distance))


def _draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _tree(seed):
    """A leaf of every rank: a kernel, a layer norm gain, a linear layer, a bias."""
    return {
        "conv": jnp.asarray(_draw(seed, 2, 2, 3, 4)),
        "norm": jnp.asarray(_draw(seed + 1, 2, 3, 4)),
        "dense": jnp.asarray(_draw(seed + 2, 5, 3)),
        "bias": jnp.asarray(_draw(seed + 3, 3)),
    }


def test_ours_by_hand():
    # Columns are output units: (1, 0) and (1, 1) are at 45 degrees, (0, 2) and (2, 0)
    # at 90, (3, 4) and (-3, -4) at 180.
    syn = {"kernel": jnp.array([[1.0, 0.0, 3.0], [0.0, 2.0, 4.0]])}
    real = {"kernel": jnp.array([[1.0, 2.0, -3.0], [1.0, 0.0, -4.0]])}
    expected = (1 - np.sqrt(0.5)) + 1 + 2
    np.testing.assert_allclose(match_loss(syn, real, "ours"), expected, rtol=1e-5)


def test_epsilon_is_added_to_the_product_of_the_norms():
    tiny = {"kernel": jnp.full((1, 2), 1e-3)}
    # 1 - 1e-6 / (1e-3 * 1e-3 + 1e-6) for each of the two units.
    np.testing.assert_allclose(match_loss(tiny, tiny, "ours"), 1.0, rtol=1e-5)
    # All entries together: 1 - 2e-6 / (2e-6 + 1e-6).
    np.testing.assert_allclose(match_loss(tiny, tiny, "cos"), 1 / 3, rtol=1e-5)


def test_vectors_count_only_in_mse_and_cos():
    syn = {"kernel": jnp.array([[3.0]]), "bias": jnp.array([4.0])}
    real = {"kernel": jnp.array([[3.0]]), "bias": jnp.array([0.0])}
    np.testing.assert_allclose(match_loss(syn, real, "ours"), 0, atol=1e-6)
    np.testing.assert_allclose(match_loss(syn, real, "mse"), 16, rtol=1e-6)
    # 9 / (5 * 3) = 0.6
    np.testing.assert_allclose(match_loss(syn, real, "cos"), 0.4, rtol=1e-6)
    grad = jax.jit(jax.grad(distances.match_loss), static_argnums=2)(syn, real, "ours")
    assert grad["bias"] == 0


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4), (6, 3), (1, 3)])
def test_a_row_is_an_output_unit(shape):
    a, b = _draw(0, *shape), _draw(1, *shape)
    expected = 0
    for unit in range(shape[-1]):
        x, y = a[..., unit].ravel(), b[..., unit].ravel()
        expected += 1 - x @ y / (np.linalg.norm(x) * np.linalg.norm(y) + EPSILON)
    result = layer_distance(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_all_leaves_are_summed():
    syn, real = _tree(0), _tree(10)
    ours = sum(layer_distance(syn[name], real[name]) for name in syn)
    np.testing.assert_allclose(match_loss(syn, real, "ours"), ours, rtol=1e-6)

    mse = sum(np.sum((syn[name] - real[name]) ** 2) for name in syn)
    np.testing.assert_allclose(match_loss(syn, real, "mse"), mse, rtol=1e-6)

    x, y = (np.concatenate([np.ravel(v) for v in t.values()]) for t in (syn, real))
    cos = 1 - x @ y / (np.linalg.norm(x) * np.linalg.norm(y) + EPSILON)
    np.testing.assert_allclose(match_loss(syn, real, "cos"), cos, rtol=1e-5)


def test_gradient_of_a_dead_unit_is_that_of_pytorch():
    # At a = 0 the norm has the gradient 0, which leaves -b / epsilon.
    a = jnp.array([[0.0, 1.0], [0.0, 2.0]])
    b = jnp.array([[0.5, 1.0], [-2.0, 2.0]])
    with jax.debug_nans(True):
        value, grad = value_and_grad(a, b)
    np.testing.assert_allclose(value, 1, atol=1e-6)
    np.testing.assert_allclose(grad[:, 0], -b[:, 0] / EPSILON, rtol=1e-5)
    np.testing.assert_allclose(grad[:, 1], [0, 0], atol=1e-6)

    # Dead on the real images, or on both: nothing to learn.
    zero = jnp.zeros_like(a)
    with jax.debug_nans(True):
        for a in (b, zero):
            value, grad = value_and_grad(a, zero)
            assert value == 2
            np.testing.assert_array_equal(grad, zero)


@pytest.mark.parametrize("distance", DISTANCES)
def test_images_of_a_dead_unit_have_a_finite_gradient(distance):
    def weight_gradient(x):
        """Of a ReLU layer whose second unit is never above zero."""

        def loss(w):
            return jnp.sum(jax.nn.relu(x @ w + jnp.array([[0.0, -100.0]])) ** 2)

        return {"kernel": jax.grad(loss)(jnp.array([[1.0, 1.0], [0.5, 2.0]]))}

    def loss(x):
        real = weight_gradient(jnp.array([[2.0, 1.0]]))
        return distances.match_loss(weight_gradient(x), real, distance)

    with jax.debug_nans(True):
        grad = jax.jit(jax.grad(loss))(jnp.array([[1.0, 1.0]]))
    assert np.isfinite(grad).all()
    assert np.any(grad != 0)


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_are_those_of_finite_differences(distance):
    with jax.enable_x64(True):
        syn, real = (
            {"kernel": _draw(seed, 2, 3).astype(float), "bias": np.full(2, 1.0 * seed)}
            for seed in (1, 2)
        )
        check_grads(
            jax.jit(lambda syn: distances.match_loss(syn, real, distance)),
            (syn,),
            order=2,
            modes=["rev"],
            rtol=1e-5,
        )


@pytest.mark.parametrize("distance", DISTANCES)
def test_vmap_equals_a_python_loop(distance):
    trees = [(_tree(seed), _tree(seed + 100)) for seed in range(3)]

    def function(syn, real):
        return jax.value_and_grad(distances.match_loss)(syn, real, distance)

    expected = [jax.jit(function)(*pair) for pair in trees]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    values, grads = jax.jit(jax.vmap(function))(*stacked)
    for i, (value, grad) in enumerate(expected):
        np.testing.assert_allclose(values[i], value, rtol=1e-5)
        for name in grad:
            np.testing.assert_allclose(grads[name][i], grad[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("distance", "names"),
    [
        ("ours", ["conv", "dense", "norm"]),
        ("mse", ["bias", "conv", "dense", "norm"]),
        ("cos", ["all"]),
    ],
)
def test_summands_have_the_names_of_parameters(distance, names):
    syn, real = _tree(0), _tree(10)
    summands = distances.match_distances(syn, real, distance)
    assert list(summands) == names
    total = sum(map(float, summands.values()))
    np.testing.assert_allclose(match_loss(syn, real, distance), total, rtol=1e-5)
    # Each is what is left of the loss where the others are the same.
    for name in names if distance != "cos" else ():
        alone = distances.match_distances(real | {name: syn[name]}, real, distance)
        np.testing.assert_allclose(alone[name], summands[name], rtol=1e-5)
        rest = [float(value) for other, value in alone.items() if other != name]
        np.testing.assert_allclose(rest, 0, atol=1e-5)


def test_a_summand_is_named_by_its_path():
    tree = {"params": {"Conv_0": {"kernel": jnp.ones((2, 2))}, "b": [jnp.ones((2, 2))]}}
    summands = distances.match_distances(tree, tree, "ours")
    assert list(summands) == ["params/Conv_0/kernel", "params/b/0"]


def test_unknown_distance():
    with pytest.raises(ValueError, match="one of ours, mse, cos, got 'l2'"):
        match_loss(_tree(0), _tree(1), "l2")


def test_different_trees_are_refused():
    tree = _tree(0)
    with pytest.raises(ValueError, match="shorter"):
        distances.match_loss(tree, {"conv": tree["conv"]}, "ours")

"""The second order in slices is the second order at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dc_jax.methods import second_order as module
from dc_jax.methods.distances import match_distances
from dc_jax.methods.second_order import second_order
from dc_jax.networks import make_network
from dc_jax.training.train import mean_gradient

pytestmark = pytest.mark.usefixtures("quick_compile")

CLASSES, SHAPE, NUM = 3, (2, 2, 2), 11


@pytest.mark.parametrize("distance", ["ours", "mse", "cos"])
@pytest.mark.parametrize(
    ("has_blanks", "has_labels"),
    [
        (False, False),
        pytest.param(True, False, marks=pytest.mark.slow),
        pytest.param(True, True, marks=pytest.mark.slow),
    ],
)
def test_slices_change_nothing(distance, has_blanks, has_labels):
    with jax.enable_x64(True):
        network = make_network("MLP", CLASSES, SHAPE)
        images = jax.random.normal(jax.random.key(0), (NUM, *SHAPE))
        variables = network.init(jax.random.key(1), images)
        weights = jnp.arange(NUM) % 3 / 2 if has_blanks else None

        labels = jax.random.uniform(jax.random.key(2), (NUM, CLASSES))
        learned = (images, labels) if has_labels else images

        def gradient(learned, slice_size, weights):
            is_pair = isinstance(learned, tuple)
            images, labels = learned if is_pair else (learned, jnp.ones(len(learned)))
            labels = labels if is_pair else labels.astype(int)
            return mean_gradient(
                network,
                variables,
                images,
                labels,
                slice_size=slice_size,
                weights=weights,
            )

        target = gradient(images[:4] + 1, 4, None)

        def measure(grads):
            summands = match_distances(grads, target, distance)
            return sum(summands.values()), summands

        @functools.partial(jax.jit, static_argnums=0)
        def run(slice_size):
            return second_order(
                gradient, measure, learned, weights, slice_size=slice_size
            )

        # The last of six slices is smaller than the others.
        assert NUM > module._MAX_SLICES * 2
        of_learned, summands = run(2)
        at_once, same_summands = run(NUM)
        pairs = zip(jax.tree.leaves(of_learned), jax.tree.leaves(at_once), strict=True)
        for grads, same in pairs:
            scale = np.abs(same).max()
            np.testing.assert_allclose(grads, same, rtol=0, atol=1e-12 * scale)
        for name, value in summands.items():
            np.testing.assert_allclose(
                value, same_summands[name], rtol=1e-12, atol=1e-20
            )
        if has_blanks:
            assert not grads[0].any()
            assert grads[1].any()

"""CutMix: boxes by hand, shares that are the areas, labels that follow the pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dc_jax.training import cutmix
from dc_jax.training.train import cross_entropy

pytestmark = pytest.mark.usefixtures("quick_compile")


def _mix(seed, probability, num=3):
    """Mixes images whose pixels are their labels."""
    labels = jnp.arange(num)
    images = jnp.broadcast_to(labels[:, None, None, None], (num, 4, 6, 1))
    return cutmix.mix(jax.random.key(seed), images, labels, probability)


@pytest.mark.parametrize("seed", range(5))
def test_labels_follow_the_pixels(seed):
    images, (own, others, share) = _mix(seed, 1.0)
    np.testing.assert_array_equal(own, [0, 1, 2])
    assert sorted(np.asarray(others).tolist()) == [0, 1, 2]
    for place in range(3):
        pixels = np.asarray(images[place])
        assert set(pixels.ravel().tolist()) <= {int(own[place]), int(others[place])}
        if own[place] != others[place]:
            expected = np.mean(pixels == own[place])
            np.testing.assert_allclose(share[place], expected, rtol=1e-6)


def test_the_probability():
    mixed = [bool((_mix(seed, 0.5)[1][2] < 1).any()) for seed in range(200)]
    # Also a box that has no pixel leaves the images as they were.
    assert 60 < sum(mixed) <= 120
    images, (own, _, share) = _mix(0, 0.0)
    np.testing.assert_array_equal(images[:, 0, 0, 0], own)
    np.testing.assert_array_equal(share, 1)


def test_a_box_is_one_rectangle_with_the_proportions_of_the_image():
    keys = jax.random.split(jax.random.key(0), 300)
    boxes = np.asarray(jax.vmap(lambda key: cutmix.draw_box(key, (40, 20)))(keys))
    for box in boxes:
        rows, columns = box.any(1), box.any(0)
        np.testing.assert_array_equal(box, rows[:, None] & columns[None, :])
        # One piece, and twice as many rows as columns where no edge cuts it.
        assert np.abs(np.diff(np.pad(rows, 1).astype(int))).sum() <= 2
        is_inside = not (rows[[0, -1]].any() or columns[[0, -1]].any())
        assert not is_inside or abs(rows.sum() - 2 * columns.sum()) <= 2
    # A box of area a has lost none, a quarter or so of it at the edges.
    assert 0.25 < boxes.mean() < 0.4


def test_the_loss_by_hand():
    """-ln of 0.5 and 0.25, by three quarters and one quarter."""
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    share = jnp.array([0.75])
    expected = [-(0.75 * np.log(0.5) + 0.25 * np.log(0.25))]
    loss = cutmix.mixed(cross_entropy)
    labels = (jnp.array([0]), jnp.array([2]), share)
    np.testing.assert_allclose(loss(logits, labels), expected, rtol=1e-6)
    soft = (jnp.eye(3)[labels[0]], jnp.eye(3)[labels[1]], share)
    np.testing.assert_allclose(loss(logits, soft), expected, rtol=1e-6)

"""The augmentation of PyTorch equals that of JAX, given the same random numbers."""

import jax
import numpy as np
import pytest

from dc_jax.training import augment_evaluation, augment_siamese

torch = pytest.importorskip("torch")
from experiments.torch_check import augment as torch_augment  # noqa: E402

SHAPE = (9, 12, 2)
JAX = {"": augment_evaluation.OPERATIONS, "dsa:": augment_siamese.OPERATIONS}
TORCH = {"": torch_augment.EVALUATION, "dsa:": torch_augment.SIAMESE}
NAMES = [(prefix, name) for prefix in JAX for name in JAX[prefix]]
each_operation = pytest.mark.parametrize(("prefix", "name"), NAMES)


def _channels_first(array):
    return torch.tensor(np.moveaxis(array, -1, -3))


def _images(num):
    return np.random.default_rng(0).normal(size=(num, *SHAPE)).astype(np.float32)


def test_all_operations_are_there():
    assert all(list(TORCH[prefix]) == list(JAX[prefix]) for prefix in JAX)


@each_operation
def test_an_operation_equals_that_of_jax(prefix, name):
    num, rng = 100, np.random.default_rng(1)
    images, mean = _images(num), np.float32([0.3, -0.7])
    draw, apply = TORCH[prefix][name]
    pixels, fill = _channels_first(images), torch.from_numpy(mean)
    drawn = [draw(rng, image.shape) for image in pixels]
    pairs = zip(pixels, drawn, strict=True)
    result = torch.stack([apply(image, values, fill) for image, values in pairs])
    drawn = np.stack(drawn)
    if name == "noise":
        drawn = np.moveaxis(drawn, 1, -1)
    elif name == "color":
        drawn = tuple(drawn.T)
    mapped = jax.jit(jax.vmap(JAX[prefix][name].apply, (0, 0, None)))
    expected = np.asarray(mapped(images, drawn, mean))
    np.testing.assert_allclose(result, _channels_first(expected), atol=5e-5)
    assert not np.allclose(result, pixels, atol=1e-4)


@each_operation
def test_the_draws_of_an_operation_are_those_of_jax(prefix, name):
    num, rng = 4000, np.random.default_rng(2)
    shape = torch.Size((2, 9, 12))
    draw = TORCH[prefix][name].draw
    theirs = np.array([np.ravel(draw(rng, shape)) for _ in range(num)], np.float32)
    keys = jax.random.split(jax.random.key(0), num)
    ours = jax.jit(jax.vmap(lambda key: JAX[prefix][name].draw(key, SHAPE)))(keys)
    if isinstance(ours, tuple):
        ours = np.stack(ours, 1)
    ours = np.asarray(ours, np.float32).reshape(num, -1)
    atol = 0.1 * ours.std(0).max()
    np.testing.assert_allclose(theirs.mean(0), ours.mean(0), atol=atol)
    np.testing.assert_allclose(theirs.std(0), ours.std(0), atol=atol)
    if name != "noise":  # All others have bounds.
        for end in (np.min, np.max):
            atol = 0.005 * np.ptp(ours)
            np.testing.assert_allclose(end(theirs, 0), end(ours, 0), atol=atol)


def _tag(index):
    """An operation that draws a number, and paints the image with it and an index."""
    return torch_augment.Operation(
        lambda rng, shape: rng.random(),
        lambda image, drawn, mean: torch.full_like(image, index + drawn),
    )


@pytest.mark.parametrize(("prefix", "is_one"), [("", False), ("dsa:", True)])
def test_the_operation_of_images_or_of_a_batch_is_drawn(prefix, is_one, monkeypatch):
    for index, name in enumerate(("crop", "scale", "rotate")):
        monkeypatch.setitem(TORCH[prefix], name, _tag(index))
    rng, images = np.random.default_rng(0), torch.zeros(20, 1, 1, 1)
    batches = [
        torch_augment.augment(rng, images, prefix + "crop_scale_rotate").ravel()
        for _ in range(300)
    ]
    indices = np.stack(batches).astype(int)
    assert np.all(abs(np.bincount(indices.ravel(), minlength=3) / 6000 - 1 / 3) < 0.1)
    assert all((len(set(row)) == 1) == is_one for row in indices.tolist())
    assert len(np.unique(batches)) == 6000  # Each image has draws of its own.


def test_the_mean_of_the_batch_fills_crops(monkeypatch):
    monkeypatch.setitem(
        TORCH[""], "crop", TORCH[""]["crop"]._replace(draw=lambda *_: (0, 4))
    )
    images = _channels_first(_images(3))
    result = torch_augment.augment(np.random.default_rng(0), images, "crop")
    mean = images.mean((0, 2, 3), keepdim=True).broadcast_to(3, 2, 4, 12)
    np.testing.assert_allclose(result[:, :, :4], mean, atol=1e-6)


@pytest.mark.parametrize("strategy", ["none", "dsa:none"])
def test_none_returns_the_images(strategy):
    images = torch.ones(2, 1, 4, 4)
    assert torch_augment.augment(np.random.default_rng(0), images, strategy) is images

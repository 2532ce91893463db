"""Augmentation against SciPy, plain loops and hand-computed values."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from dc_jax.training import augment
from dc_jax.training import augment_evaluation as evaluation
from dc_jax.training.augment_strategy import Operation

SHAPES = [(8, 8, 1), (32, 32, 3), (9, 20, 2), (32, 12, 1)]
_augment = jax.jit(augment.augment, static_argnums=2)


def _normal(shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def _loop_crop(image, corner, mean):
    height, width, _ = image.shape
    output = np.empty_like(image)
    for i in range(height):
        for j in range(width):
            r, c = i + corner[0] - 4, j + corner[1] - 4
            is_inside = 0 <= r < height and 0 <= c < width
            output[i, j] = image[r, c] if is_inside else mean
    return output


def _loop_scale(image, size):
    height, width, depth = image.shape
    (h, w), side = size, max(*size, height, width)
    canvas = np.zeros((side, side, depth), image.dtype)
    top, left = int((side - h) / 2), int((side - w) / 2)
    for i in range(h):
        for j in range(w):
            source = image[int(i * height / h), int(j * width / w)]
            canvas[top + i, left + j] = source
    r, c = int((side - height) / 2), int((side - width) / 2)
    return canvas[r : r + height, c : c + width]


def _scipy_rotate(image, angle, mean):
    height, width, _ = image.shape
    fill, margin = np.mean(mean), 32
    turned = ndimage.rotate(image, angle, axes=(0, 1), cval=fill)
    r = margin + int((turned.shape[0] - height) / 2)
    c = margin + int((turned.shape[1] - width) / 2)
    # The long side of an oblong image may be cut: outside of it is the fill, too.
    pads = ((margin, margin), (margin, margin), (0, 0))
    turned = np.pad(turned, pads, constant_values=fill)
    return turned[r : r + height, c : c + width]


def _apply_all(apply_fn, image, params, mean):
    return jax.jit(jax.vmap(apply_fn, (None, 0, None)))(image, jnp.array(params), mean)


@pytest.mark.parametrize("shape", SHAPES)
def test_rotate_equals_scipy_at_every_angle(shape):
    image, mean, angles = _normal(shape), _normal(shape[-1:]), np.arange(-45, 45)
    rotated = _apply_all(evaluation.apply_rotate, image, angles, mean)
    expected = np.stack([_scipy_rotate(image, a, mean) for a in angles])
    np.testing.assert_allclose(rotated, expected, atol=5e-5)


def test_rotate_equals_scipy_in_double_precision():
    shape = (9, 12, 2)
    image, angles = _normal(shape, np.float64), np.array([-45, -30, -7, 0, 1, 44])
    mean = _normal(shape[-1:], np.float64)
    with jax.enable_x64(True):
        rotated = _apply_all(evaluation.apply_rotate, image, angles, mean)
    assert rotated.dtype == np.float64
    expected = np.stack([_scipy_rotate(image, a, mean) for a in angles])
    np.testing.assert_allclose(rotated, expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 6, 2), (5, 8, 1)])
def test_crop_equals_a_loop_at_every_corner(shape):
    image, mean = _normal(shape), _normal(shape[-1:])
    corners = [(r, c) for r in range(8) for c in range(8)]
    cropped = _apply_all(evaluation.apply_crop, image, corners, mean)
    expected = np.stack([_loop_crop(image, corner, mean) for corner in corners])
    np.testing.assert_array_equal(cropped, expected)


@pytest.mark.parametrize("shape", [(28, 28, 1), (12, 20, 2), (20, 12, 1)])
def test_scale_equals_a_loop_at_every_size(shape):
    image = _normal(shape)
    ranges = [range(int(0.8 * num), int(1.2 * num) + 1) for num in shape[:2]]
    sizes = [(h, w) for h in ranges[0] for w in ranges[1]]
    scaled = _apply_all(evaluation.apply_scale, image, sizes, jnp.ones(shape[-1:]))
    expected = np.stack([_loop_scale(image, size) for size in sizes])
    np.testing.assert_array_equal(scaled, expected)


def test_scale_by_hand():
    image = jnp.arange(1.0, 6.0)[None, :, None]  # One row of five pixels.
    sizes = [(1, 4), (1, 6)]
    narrow, wide = _apply_all(evaluation.apply_scale, image, sizes, jnp.ones(1))
    np.testing.assert_array_equal(narrow[0, :, 0], [1, 2, 3, 4, 0])
    np.testing.assert_array_equal(wide[0, :, 0], [1, 1, 2, 3, 4])


def test_noise_by_hand():
    noised = evaluation.apply_noise(
        jnp.full((1, 2, 1), 3.0), jnp.array([[[1.0], [-2.0]]]), jnp.zeros(1)
    )
    np.testing.assert_allclose(noised[0, :, 0], [3.001, 2.998], rtol=1e-6)


def test_draws_cover_their_ranges_evenly():
    @jax.jit
    @jax.vmap
    def draw_all(key):
        names = ("crop", "scale", "rotate")
        return {n: evaluation.OPERATIONS[n].draw(key, (28, 10, 1)) for n in names}

    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.tree.map(np.asarray, draw_all(keys))
    for axis in range(2):
        counts = np.bincount(drawn["crop"][:, axis], minlength=8)
        assert counts.shape == (8,)
        assert np.all(abs(counts - 500) < 100)
    np.testing.assert_array_equal(np.unique(drawn["scale"][:, 0]), range(22, 34))
    np.testing.assert_array_equal(np.unique(drawn["scale"][:, 1]), range(8, 12))
    np.testing.assert_array_equal(np.unique(drawn["rotate"]), range(-45, 45))


def test_noise_is_standard_normal():
    noise = evaluation.draw_noise(jax.random.key(0), (100, 100, 2))
    chex.assert_shape(noise, (100, 100, 2))
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 1], atol=0.03)


def test_every_operation_is_chosen_about_equally_often(monkeypatch):
    names = ("crop", "scale", "rotate")
    for index, name in enumerate(names):
        tag = Operation(
            lambda key, shape: None,
            lambda image, params, mean, index=index: jnp.full_like(image, index),
        )
        monkeypatch.setitem(evaluation.OPERATIONS, name, tag)
    images = jnp.zeros((3000, 1, 1, 1))
    compiled = jax.jit(lambda key: augment.augment(key, images, "crop_scale_rotate"))
    chosen = compiled(jax.random.key(1))
    counts = np.bincount(np.asarray(chosen, int).ravel(), minlength=3)
    assert np.all(abs(counts - 1000) < 100)


def test_augment_keeps_shape_and_type_and_follows_the_key():
    images = jnp.asarray(_normal((5, 12, 10, 3)))
    first = _augment(jax.random.key(0), images, "crop_noise")
    chex.assert_trees_all_equal_shapes_and_dtypes(first, images)
    again = _augment(jax.random.key(0), images, "crop_noise")
    chex.assert_trees_all_equal(first, again)
    other = _augment(jax.random.key(1), images, "crop_noise")
    assert not np.array_equal(first, other)


def test_augment_equals_a_loop_over_images():
    images = _normal((12, 8, 8, 2)) + 1
    mean, names = images.mean((0, 1, 2)), ("crop", "scale", "rotate")

    @functools.partial(jax.jit, static_argnums=1)
    def apply_one(key, name, image):
        operation = evaluation.OPERATIONS[name]
        return operation.apply(image, operation.draw(key, image.shape), mean)

    expected = []
    for key, image in zip(jax.random.split(jax.random.key(3), 12), images, strict=True):
        choice_key, draw_key = jax.random.split(key)
        name = names[jax.random.randint(choice_key, (), 0, 3)]
        expected.append(apply_one(draw_key, name, image))
    augmented = _augment(jax.random.key(3), images, "crop_scale_rotate")
    np.testing.assert_allclose(augmented, np.stack(expected), atol=1e-5)


def test_none_returns_the_images():
    images = jnp.ones((2, 4, 4, 1))
    assert augment.augment(jax.random.key(0), images, "none") is images


def test_augment_works_in_double_precision():
    with jax.enable_x64(True):
        images = jnp.asarray(_normal((16, 8, 8, 1), np.float64))
        run = functools.partial(augment.augment, strategy="crop_scale_rotate_noise")
        augmented = jax.eval_shape(run, jax.random.key(0), images)
    chex.assert_trees_all_equal_shapes_and_dtypes(augmented, images)


@pytest.mark.parametrize("strategy", ["flip", "crop_", "", "crop_none", "crop noise"])
def test_unknown_strategy_names_what_is_allowed(strategy):
    with pytest.raises(ValueError, match="crop, scale, rotate, noise") as error:
        augment.parse_strategy(strategy)
    assert repr(strategy) in str(error.value)
    assert "\n" not in str(error.value)

"""Siamese augmentation by hand and by its properties; values are in golden_test.py."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dc_jax.training import augment, augment_siamese
from dc_jax.training.augment_siamese import OPERATIONS, Draws

pytestmark = pytest.mark.usefixtures("quick_compile")
ALL = "_".join(OPERATIONS)
# Draws that change nothing.
IDENTITY = {
    "color": (0.0, 1.0, 1.0),
    "crop": (0, 0),
    "flip": False,
    "scale": (1.0, 1.0),
    "rotate": 0.0,
}


def _normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _apply_one(name, image, drawn):
    drawn = jax.tree.map(jnp.asarray, drawn)
    return OPERATIONS[name].apply(jnp.asarray(image), drawn, None)


@pytest.mark.parametrize("name", IDENTITY)
def test_identity_draws_change_nothing(name):
    image = _normal((9, 12, 3))
    result = _apply_one(name, image, IDENTITY[name])
    np.testing.assert_allclose(result, image, atol=1e-6)


def test_crop_moves_the_image_and_fills_with_zeros():
    image = _normal((8, 8, 2))
    down = _apply_one("crop", image, (1, -1))
    np.testing.assert_array_equal(down[:7, 1:], image[1:, :7])
    assert not down[7].any()
    assert not down[:, 0].any()


@pytest.mark.parametrize(
    ("shape", "centre", "rows", "columns"),
    [
        ((8, 8, 1), (4, 4), (2, 6), (2, 6)),
        # Half of it outside, at both ends.
        ((8, 8, 1), (0, 8), (0, 2), (6, 8)),
        # Five rows are cut out of 9, six columns out of 12.
        ((9, 12, 2), (4, 6), (2, 7), (3, 9)),
        ((9, 12, 2), (8, 0), (6, 9), (0, 3)),
    ],
)
def test_cutout_by_hand(shape, centre, rows, columns):
    expected = np.ones(shape)
    expected[slice(*rows), slice(*columns)] = 0
    np.testing.assert_array_equal(
        _apply_one("cutout", np.ones(shape), centre), expected
    )


def test_scale_and_rotate_by_hand():
    image = np.arange(1.0, 5)[None, :, None] * np.ones((4, 4, 1))
    # Twice as far from the centre, -1.5 .. 1.5: -3, -1, 1, 3, the outer ones outside.
    narrow = _apply_one("scale", image, (2.0, 1.0))
    np.testing.assert_allclose(narrow[1, :, 0], [0, 1.5, 3.5, 0], atol=1e-6)
    short = _apply_one("scale", image, (1.0, 2.0))
    np.testing.assert_allclose(short[:, 0, 0], [0, 1, 1, 0], atol=1e-6)
    turned = _apply_one("rotate", image, np.pi / 2)
    np.testing.assert_allclose(turned, np.rot90(image), atol=1e-5)


def test_color_is_brightness_then_saturation_then_contrast():
    image = np.array([[[1.0, 3.0]], [[5.0, 7.0]]])
    # Plus 1: 2 4 6 8. Twice as far from the means 3 and 7: 1 5 5 9. Half as far from 5.
    result = _apply_one("color", image, (1.0, 2.0, 0.5))
    np.testing.assert_allclose(result.ravel(), [3, 5, 5, 7], rtol=1e-6)


def test_draws_cover_their_ranges():
    @jax.jit
    @jax.vmap
    def draw_all(key):
        return {n: op.draw(key, (8, 9, 1)) for n, op in OPERATIONS.items()}

    drawn = jax.tree.map(
        np.asarray, draw_all(jax.random.split(jax.random.key(0), 4000))
    )
    ranges = [(-0.5, 0.5), (0, 2), (0.5, 1.5)]
    values = [*drawn["color"], *drawn["scale"].T, drawn["rotate"]]
    angle = np.deg2rad(15)
    for value, (low, high) in zip(
        values, [*ranges, *[(1 / 1.2, 1.2)] * 2, (-angle, angle)], strict=True
    ):
        assert low <= value.min() < low + 0.01 * (high - low)
        assert high >= value.max() > high - 0.01 * (high - low)
        np.testing.assert_allclose(value.mean(), (low + high) / 2, atol=0.05)
    # 0.125 of a side, half up; a hole of four rows or of five columns.
    for axis, (crops, cuts) in enumerate([((-1, 2), (0, 9)), ((-1, 2), (0, 9))]):
        np.testing.assert_array_equal(np.unique(drawn["crop"][:, axis]), range(*crops))
        np.testing.assert_array_equal(np.unique(drawn["cutout"][:, axis]), range(*cuts))
    assert abs(drawn["flip"].mean() - 0.5) < 0.03


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_batch_equals_a_loop_over_images(name, each):
    images = _normal((5, 8, 8, 2))
    operations = [OPERATIONS[name]]
    num = 5 if each else None
    draws = augment_siamese.draw(jax.random.key(1), operations, (8, 8, 2), num)
    result = augment_siamese.apply(images, draws, operations, each=each)
    (drawn,) = draws.drawn
    for i, image in enumerate(images):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], drawn) if each else drawn
        np.testing.assert_allclose(
            result[i], _apply_one(name, image, own), rtol=1e-5, atol=1e-6
        )
    if each and name != "flip":
        first = jax.tree.leaves(drawn)[0]
        assert len(np.unique(first, axis=0)) > 1


def test_two_batches_of_any_size_are_changed_alike():
    image = _normal((8, 8, 1))

    @jax.jit
    def run(key, real, syn):
        change = augment_siamese.make_siamese(key, ALL, image.shape)
        return change(real), change(syn)

    batch = np.stack([_normal(image.shape, 1), image, image])
    for seed in range(8):
        real, syn = run(jax.random.key(seed), batch, image[None])
        np.testing.assert_allclose(real[1], syn[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(real[1], real[2])


def test_the_choice_is_even_and_decides_alone():
    operations = list(OPERATIONS.values())
    draw = functools.partial(
        augment_siamese.draw, operations=operations, image_shape=(8, 8, 1)
    )
    draws = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 3000))
    counts = np.bincount(draws.choice, minlength=len(OPERATIONS))
    assert counts.shape == (6,)
    assert np.all(abs(counts - 500) < 100)
    images = jnp.asarray(_normal((2, 8, 8, 1)))
    one = jax.tree.map(lambda leaf: leaf[0], draws)
    apply = jax.jit(functools.partial(augment_siamese.apply, operations=operations))
    for choice, name in enumerate(OPERATIONS):
        chosen = Draws(jnp.int32(choice), one.drawn)
        result = apply(images, chosen)
        expected = [_apply_one(name, image, one.drawn[choice]) for image in images]
        np.testing.assert_allclose(result, np.stack(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_gradient_is_that_of_a_linear_map(name):
    """Every operation is linear in the image, up to a constant."""
    images, cotangent = _normal((2, 8, 9, 1)), _normal((2, 8, 9, 1), 1)
    run = jax.jit(augment_siamese.make_siamese(jax.random.key(3), name, (8, 9, 1)))
    result, pull_back = jax.vjp(run, images)
    (grads,) = pull_back(cotangent)
    constant = run(jnp.zeros_like(images))
    np.testing.assert_allclose(
        jnp.vdot(grads, images), jnp.vdot(cotangent, result - constant), rtol=1e-4
    )
    assert np.abs(grads).max() > 0.1


def test_images_that_networks_train_on_have_draws_of_their_own():
    images, key = jnp.asarray(_normal((4, 8, 8, 1))), jax.random.key(2)
    operations = [OPERATIONS["color"]]
    draws = augment_siamese.draw(key, operations, (8, 8, 1), 4)
    expected = augment_siamese.apply(images, draws, operations, each=True)
    result = augment.augment(key, images, "dsa:color")
    np.testing.assert_array_equal(result, expected)
    assert np.abs(result - images).max() > 1e-2


def test_dtype_is_kept_and_none_returns_the_images():
    run = functools.partial(augment.augment, strategy=f"dsa:{ALL}")
    with jax.enable_x64(True):
        for dtype in (np.float32, np.float64):
            images = jnp.asarray(_normal((3, 8, 8, 1)), dtype)
            result = jax.eval_shape(run, jax.random.key(0), images)
            chex.assert_trees_all_equal_shapes_and_dtypes(result, images)
    unchanged = augment_siamese.make_siamese(jax.random.key(0), "none", (8, 8, 1))
    assert unchanged(images) is images


def test_a_strategy_names_operations_in_order():
    flip, color = OPERATIONS["flip"], OPERATIONS["color"]
    assert augment_siamese.parse_strategy("flip_color") == (flip, color)
    assert augment.parse_strategy("dsa:flip_color") == (flip, color)
    assert augment.parse_strategy("dsa:none") == ()


@pytest.mark.parametrize("strategy", ["noise", "color_", "", "dsa:color"])
def test_unknown_strategy_names_what_is_allowed(strategy):
    with pytest.raises(ValueError, match="color, crop, cutout, flip, scale") as error:
        augment_siamese.parse_strategy(strategy)
    assert repr(strategy) in str(error.value)
    with pytest.raises(ValueError, match="or 'dsa:' and some of color, crop"):
        augment.parse_strategy("color_crop")

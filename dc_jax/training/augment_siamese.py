"""Differentiable Siamese augmentation: one change for real and synthetic images alike.

Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML
2021, https://arxiv.org/abs/2102.08259, section 3.2, and the authors' code
(`DiffAugment` and `ParamDiffAug` in utils.py of
https://github.com/VICO-UoE/DatasetCondensation), whose strengths these are.

A strategy such as `color_crop_flip` names operations. Every application draws one of
them and applies it to all images, by default with the same random numbers. The authors
augment the images that networks are trained on with random numbers for each image.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dc_jax.training import augment_strategy
from dc_jax.training.augment_strategy import Operation

# The values of `ParamDiffAug`.
_BRIGHTNESS = 1.0
_SATURATION = 2.0
_CONTRAST = 0.5
_CROP = 0.125  # of the side
_CUTOUT = 0.5  # of the side
_FLIP = 0.5  # probability
_SCALE = 1.2
_ROTATE = np.deg2rad(15)


class Draws(NamedTuple):
    """All random numbers of one application of a strategy."""

    choice: jax.Array  # [] the index of the operation among those of the strategy
    # What each operation has drawn: [...], or [n, ...] where every image has its own.
    drawn: tuple[Any, ...]


def parse_strategy(strategy: str) -> tuple[Operation, ...]:
    """Returns the operations of a strategy such as `color_crop`; none for `none`.

    Raises:
      UserError: the strategy names something that is not an operation.
    """
    return augment_strategy.parse(strategy, {"": OPERATIONS})


def make_siamese(
    key: jax.Array, strategy: str, image_shape: tuple[int, ...]
) -> Callable[[jax.Array], jax.Array]:
    """Returns a function that changes all images of all batches in the same way.

    Raises:
      UserError: the strategy is unknown.
    """
    operations = parse_strategy(strategy)
    draws = draw(key, operations, image_shape)
    return lambda images: apply(images, draws, operations)


def draw(
    key: jax.Array,
    operations: Sequence[Operation],
    image_shape: tuple[int, ...],  # (H, W, D)
    num: int | None = None,
) -> Draws:
    """Draws all that `apply` needs, for each of `num` images or once for all images."""
    choice_key, *keys = jax.random.split(key, 1 + len(operations))

    def draw_one(operation: Operation, key: jax.Array) -> Any:
        if num is None:
            return operation.draw(key, image_shape)
        keys = jax.random.split(key, num)
        return jax.vmap(lambda key: operation.draw(key, image_shape))(keys)

    return Draws(
        jax.random.randint(choice_key, (), 0, max(1, len(operations))),
        tuple(map(draw_one, operations, keys)),
    )


def apply(
    images: jax.Array,  # [n, H, W, D], normalised
    draws: Draws,  # for these operations
    operations: Sequence[Operation],
    *,
    each: bool = False,  # whether every image has its own draws
) -> jax.Array:
    """Applies the operation that was drawn. Returns `[n, H, W, D]`."""
    if not operations:
        return images

    def make_branch(operation: Operation, drawn: Any) -> Callable:
        mapped = jax.vmap(operation.apply, (0, 0 if each else None, None))
        return lambda images: mapped(images, drawn, None).astype(images.dtype)

    branches = list(map(make_branch, operations, draws.drawn))
    return jax.lax.switch(draws.choice, branches, images)


def draw_color(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    """Returns the brightness that is added, and the factors of the other two. `[]`."""
    brightness, saturation, contrast = jax.random.uniform(key, (3,))
    return (
        (brightness - 0.5) * _BRIGHTNESS,
        saturation * _SATURATION,
        contrast + _CONTRAST,
    )


def apply_color(image: jax.Array, drawn: tuple[jax.Array, ...]) -> jax.Array:
    """Changes brightness, then saturation, then contrast.

    The paper speaks of one; all three, one after another, are what its code does.
    """
    brightness, saturation, contrast = drawn
    image = apply_saturation(apply_brightness(image, brightness), saturation)
    return apply_contrast(image, contrast)


def apply_brightness(image: jax.Array, added: jax.Array) -> jax.Array:
    """Adds a number to all pixels."""
    return image + added


def apply_saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Scales how far each pixel is from the mean of its channels."""
    return _scale_from(jnp.mean(image, axis=-1, keepdims=True), image, factor)


def apply_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Scales how far each pixel is from the mean of the image."""
    return _scale_from(jnp.mean(image), image, factor)


def _scale_from(mean: jax.Array, image: jax.Array, factor: jax.Array) -> jax.Array:
    return (image - mean) * factor + mean


def draw_crop(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns the rows and columns that the window is moved by. Shape `[2]`."""
    most = jnp.array(_parts(shape, _CROP))
    return jax.random.randint(key, (2,), -most, most + 1)


def apply_crop(image: jax.Array, moved: jax.Array) -> jax.Array:
    """Cuts a window as large as the image out of the image padded with zeros."""
    rows, columns = _parts(image.shape, _CROP)
    padded = jnp.pad(image, ((rows, rows), (columns, columns), (0, 0)))
    corner = (moved[0] + rows, moved[1] + columns, 0)
    return jax.lax.dynamic_slice(padded, corner, image.shape)


def _parts(shape: tuple[int, ...], fraction: float) -> tuple[int, int]:
    """A fraction of the rows and of the columns, half up."""
    return int(shape[0] * fraction + 0.5), int(shape[1] * fraction + 0.5)


def draw_cutout(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns row and column of the centre of what is cut out. Shape `[2]`."""
    sizes = _parts(shape, _CUTOUT)
    # A hole of an even size may lie half outside at both ends.
    ends = [side + 1 - size % 2 for side, size in zip(shape[:2], sizes, strict=True)]
    return jax.random.randint(key, (2,), 0, jnp.array(ends))


def apply_cutout(image: jax.Array, centre: jax.Array) -> jax.Array:
    """Sets a rectangle to zero."""
    height, width = _parts(image.shape, _CUTOUT)
    rows = jnp.arange(image.shape[0]) - (centre[0] - height // 2)
    columns = jnp.arange(image.shape[1]) - (centre[1] - width // 2)
    is_cut_row = (rows >= 0) & (rows < height)
    is_cut_column = (columns >= 0) & (columns < width)
    return jnp.where(is_cut_row[:, None, None] & is_cut_column[None, :, None], 0, image)


def draw_flip(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns whether to flip. Shape `[]`."""
    return jax.random.bernoulli(key, _FLIP)


def apply_flip(image: jax.Array, is_flipped: jax.Array) -> jax.Array:
    """Exchanges left and right."""
    return jnp.where(is_flipped, image[:, ::-1], image)


def draw_scale(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns how much smaller the image gets, in width and in height. Shape `[2]`."""
    return jax.random.uniform(key, (2,), minval=1 / _SCALE, maxval=_SCALE)


def apply_scale(image: jax.Array, factors: jax.Array) -> jax.Array:
    """Scales about the centre, width and height each by its own factor."""
    y, x = _from_centre(image.shape)
    return _sample(image, factors[1] * y, factors[0] * x)


def draw_rotate(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns the angle in radians. Shape `[]`."""
    return jax.random.uniform(key, minval=-_ROTATE, maxval=_ROTATE)


def apply_rotate(image: jax.Array, angle: jax.Array) -> jax.Array:
    """Rotates about the centre.

    Follows the authors' code in that lengths are relative to the sides, which shears
    images that are not square.
    """
    height, width, _ = image.shape
    y, x = _from_centre(image.shape)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return _sample(
        image, cos * y + sin * x * height / width, cos * x - sin * y * width / height
    )


def _from_centre(shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns rows and columns of all pixels, counted from the centre, `[H, W]`."""
    rows, columns = (jnp.arange(side) - (side - 1) / 2 for side in shape[:2])
    return tuple(jnp.meshgrid(rows, columns, indexing="ij"))


def _sample(image: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Interpolates linearly at places `[H, W]` from the centre; zero outside."""
    height, width, _ = image.shape
    rows, columns = y + (height - 1) / 2, x + (width - 1) / 2
    top, left = jnp.floor(rows), jnp.floor(columns)
    result = jnp.zeros_like(image)
    for row in (top, top + 1):
        for column in (left, left + 1):
            is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = (1 - abs(rows - row)) * (1 - abs(columns - column))
            pixels = image.at[row.astype(int), column.astype(int)].get(mode="clip")
            result += jnp.where(is_inside, weight, 0)[..., None] * pixels
    return result


def _operation(draw: Callable, apply: Callable) -> Operation:
    """Returns an operation that needs no mean of the batch."""
    return Operation(draw, lambda image, drawn, mean: apply(image, drawn))


OPERATIONS = {
    "color": _operation(draw_color, apply_color),
    "crop": _operation(draw_crop, apply_crop),
    "cutout": _operation(draw_cutout, apply_cutout),
    "flip": _operation(draw_flip, apply_flip),
    "scale": _operation(draw_scale, apply_scale),
    "rotate": _operation(draw_rotate, apply_rotate),
}

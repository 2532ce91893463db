"""The augmentations of `dc_jax.training.augment`, once more in plain PyTorch.

They follow the same published code (`augment`, `get_daparam`, `DiffAugment` and
`ParamDiffAug` in utils.py of https://github.com/VICO-UoE/DatasetCondensation), and use
nothing of `dc_jax`. An image is a float tensor `[D, H, W]`, normalised.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

_SIAMESE = "dsa:"
_CROP = 4  # Pixels, of the evaluation's crop.
_NOISE = 0.001
_FLIP = 0.5  # Probability.
_SCALE = 1.2
_ANGLE = np.deg2rad(15)


class Operation(NamedTuple):
    """One kind of change to an image."""

    draw: Callable[[np.random.Generator, torch.Size], Any]  # (rng, [D, H, W]) -> drawn
    # (image, drawn, mean) -> image; the mean `[D]` is that of the batch.
    apply: Callable[[Tensor, Any, Tensor], Tensor]


def augment(rng: np.random.Generator, images: Tensor, strategy: str) -> Tensor:
    """Changes each of the images `[n, D, H, W]` by an operation of the strategy.

    The operation is drawn for each image, or after `dsa:` once for all of them. In both
    cases each image has random numbers of its own.
    """
    is_siamese = strategy.startswith(_SIAMESE)
    names = strategy.removeprefix(_SIAMESE).split("_")
    if names == ["none"]:
        return images
    choices = rng.choice(names, 1 if is_siamese else len(images))
    operations, mean = SIAMESE if is_siamese else EVALUATION, images.mean((0, 2, 3))
    changed = []
    for image, name in zip(images, np.broadcast_to(choices, len(images)), strict=True):
        draw, apply = operations[name]
        changed.append(apply(image, draw(rng, image.shape), mean))
    return torch.stack(changed)


def _window(image: Tensor, most: Any, corner: Any, fill: Tensor) -> Tensor:
    """Cuts a window out of the image, which gets `most` rows and columns at each end.

    The colour of these is `fill`, `[D]`. `corner` has the first row and column.
    """
    (rows, columns), (top, left), fill = most, corner, fill[:, None, None]
    padded = functional.pad(image - fill, (columns, columns, rows, rows)) + fill
    _, height, width = image.shape
    return padded[:, top : top + height, left : left + width]


def _scale(image: Tensor, size: Any, mean: Tensor) -> Tensor:
    """Resizes to the nearest pixel; then crops to the centre, or pads with zeros."""
    resized, shape = functional.interpolate(image[None], tuple(size))[0], image.shape
    side = max(*size, *shape[1:])
    # Where a height and a width begin in a square that holds both images.
    (top, left), (row, column) = (
        [(side - length) // 2 for length in lengths] for lengths in (size, shape[1:])
    )
    canvas = image.new_zeros(shape[0], side, side)
    canvas[:, top : top + size[0], left : left + size[1]] = resized
    return canvas[:, row : row + shape[1], column : column + shape[2]]


def _rotate(image: Tensor, angle: int, mean: Tensor) -> Tensor:
    """Rotates with a cubic spline, then crops to the centre."""
    fill = mean.mean().item()
    turned = ndimage.rotate(image.numpy(), angle, axes=(1, 2), cval=fill)
    _, height, width = image.shape
    top, left = (turned.shape[1] - height) // 2, (turned.shape[2] - width) // 2
    return torch.from_numpy(turned[:, top : top + height, left : left + width])


EVALUATION = {
    # The authors never draw the last place of the window.
    "crop": Operation(
        lambda rng, shape: rng.integers(0, 2 * _CROP, 2),
        lambda image, corner, mean: _window(image, (_CROP, _CROP), corner, mean),
    ),
    # The authors scale both by the height. This is the same for square images.
    "scale": Operation(
        lambda rng, shape: (rng.uniform(0.8, 1.2, 2) * shape[1:]).astype(int), _scale
    ),
    "rotate": Operation(lambda rng, shape: int(rng.integers(-45, 45)), _rotate),
    "noise": Operation(
        lambda rng, shape: torch.from_numpy(rng.normal(size=shape)).float(),
        lambda image, noise, mean: image + _NOISE * noise,
    ),
}


def _parts(shape: torch.Size, fraction: float) -> np.ndarray:
    """A fraction of the rows and of the columns, half up."""
    return (np.array(shape[1:]) * fraction + 0.5).astype(int)


def _color(image: Tensor, drawn: Any, mean: Tensor) -> Tensor:
    """Changes brightness, then saturation, then contrast."""
    brightness, saturation, contrast = drawn
    image = image + brightness
    image = torch.lerp(image.mean(0, keepdim=True), image, saturation)
    return torch.lerp(image.mean(), image, contrast)


def _siamese_crop(image: Tensor, moved: Any, mean: Tensor) -> Tensor:
    most = _parts(image.shape, 0.125)
    return _window(image, most.tolist(), most + moved, torch.zeros_like(mean))


def _cutout(image: Tensor, centre: Any, mean: Tensor) -> Tensor:
    """Sets a rectangle, half as high and wide as the image, to zero."""
    size, image = _parts(image.shape, 0.5), image.clone()
    (top, left), (bottom, right) = centre - size // 2, centre - size // 2 + size
    image[:, max(top, 0) : bottom, max(left, 0) : right] = 0
    return image


def _warp(image: Tensor, matrix: Any) -> Tensor:
    """Samples linearly at matrix times (x, y), both from -1 to 1; zero outside."""
    theta = functional.pad(torch.tensor(matrix, dtype=image.dtype), (0, 1))[None]
    grid = functional.affine_grid(theta, (1, *image.shape), align_corners=False)
    return functional.grid_sample(image[None], grid, align_corners=False)[0]


def _siamese_rotate(image: Tensor, angle: float, mean: Tensor) -> Tensor:
    cos, sin = np.cos(angle), np.sin(angle)
    return _warp(image, [[cos, -sin], [sin, cos]])


def _draw_cutout(rng: np.random.Generator, shape: torch.Size) -> np.ndarray:
    # A hole of an even size may lie half outside at both ends.
    return rng.integers(0, np.array(shape[1:]) + 1 - _parts(shape, 0.5) % 2)


def _draw_crop(rng: np.random.Generator, shape: torch.Size) -> np.ndarray:
    most = _parts(shape, 0.125)
    return rng.integers(-most, most + 1)


SIAMESE = {
    "color": Operation(
        lambda rng, shape: rng.uniform((-0.5, 0.0, 0.5), (0.5, 2.0, 1.5)), _color
    ),
    "crop": Operation(_draw_crop, _siamese_crop),
    "cutout": Operation(_draw_cutout, _cutout),
    "flip": Operation(
        lambda rng, shape: rng.random() < _FLIP,
        lambda image, is_flipped, mean: image.flip(2) if is_flipped else image,
    ),
    # Of the width, then of the height.
    "scale": Operation(
        lambda rng, shape: rng.uniform(1 / _SCALE, _SCALE, 2),
        lambda image, factors, mean: _warp(image, np.diag(factors)),
    ),
    "rotate": Operation(
        lambda rng, shape: rng.uniform(-_ANGLE, _ANGLE), _siamese_rotate
    ),
}

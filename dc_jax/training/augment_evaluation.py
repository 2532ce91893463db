"""The operations that change the images on which networks are trained.

They follow the authors' code (`augment` and `get_daparam` in utils.py of
https://github.com/VICO-UoE/DatasetCondensation).
"""

import jax
import jax.numpy as jnp
import numpy as np

from dc_jax.training.augment_strategy import Operation

# The values of `get_daparam`.
_CROP = 4  # pixels
_SCALE = 0.2
_ROTATE = 45  # degrees
_NOISE = 0.001


def draw_crop(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns row and column of the window in the padded image. Shape `[2]`."""
    # Follows the authors' code: the last of the 2 * _CROP + 1 places is never drawn.
    return jax.random.randint(key, (2,), 0, 2 * _CROP)


def apply_crop(image: jax.Array, corner: jax.Array, mean: jax.Array) -> jax.Array:
    """Cuts `[H, W, D]` at `corner` out of the image padded with the mean."""
    height, width, depth = image.shape
    canvas = jnp.broadcast_to(mean, (height + 2 * _CROP, width + 2 * _CROP, depth))
    canvas = canvas.at[_CROP:-_CROP, _CROP:-_CROP].set(image)
    return jax.lax.dynamic_slice(canvas, (corner[0], corner[1], 0), image.shape)


def draw_scale(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns the scaled height and width in pixels. Shape `[2]`.

    The authors' code scales both by the height; here the width has its own scale, which
    is the same for their square images.
    """
    factors = jax.random.uniform(key, (2,), jnp.float32, 1 - _SCALE, 1 + _SCALE)
    return (factors * jnp.asarray(shape[:2], jnp.float32)).astype(jnp.int32)


def apply_scale(image: jax.Array, size: jax.Array, mean: jax.Array) -> jax.Array:
    """Resizes to the nearest pixel, then crops to the centre or pads with zeros."""
    # The image and its scaled copy are centred in a square that holds both.
    side = jnp.maximum(jnp.max(size), max(image.shape[:2]))
    (rows, in_rows), (columns, in_columns) = (
        _nearest(num, scaled, side)
        for num, scaled in zip(image.shape[:2], size, strict=True)
    )
    is_inside = in_rows[:, None, None] & in_columns[None, :, None]
    return jnp.where(is_inside, image[rows[:, None], columns[None, :]], 0)


def _nearest(num: int, scaled: jax.Array, side: jax.Array) -> tuple:
    """Returns the source index of every pixel along one axis, and whether it exists."""
    pixel = jnp.arange(num) + (side - num) // 2 - (side - scaled) // 2
    # This is exact. PyTorch rounds a single-precision product and takes a neighbour for
    # one or two scaled sizes of images of 26, 39, 52, 56, ... pixels.
    source = jnp.clip(pixel * num // scaled, 0, num - 1)
    return source, (pixel >= 0) & (pixel < scaled)


def draw_rotate(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns the angle in whole degrees, in [-45, 45). Shape `[]`."""
    return jax.random.randint(key, (), -_ROTATE, _ROTATE)


def apply_rotate(image: jax.Array, angle: jax.Array, mean: jax.Array) -> jax.Array:
    """Rotates as `scipy.ndimage.rotate` does (cubic spline), then crops to the centre.

    The mean over channels of `mean` fills the pixels outside the image.
    """
    height, width, _ = image.shape
    geometry = jnp.asarray(_rotation_table(height, width), image.dtype)
    cos, sin, row, column = geometry[angle + _ROTATE]
    down = (jnp.arange(height) - row)[:, None]
    right = (jnp.arange(width) - column)[None, :]
    y, x = cos * down + sin * right, cos * right - sin * down  # [H, W] from the centre
    is_inside = (abs(y) <= (height - 1) / 2) & (abs(x) <= (width - 1) / 2)

    top, row_weights = _spline_taps(y + (height - 1) / 2, height)
    left, column_weights = _spline_taps(x + (width - 1) / 2, width)
    coefficients = jnp.einsum(
        "kh,hwd,lw->kld",
        jnp.asarray(_spline_prefilter(height), image.dtype),
        image,
        jnp.asarray(_spline_prefilter(width), image.dtype),
        precision="highest",
    )
    # XLA fuses the sixteen gathers, which take a tenth of a product of matrices.
    rotated = sum(
        (row_weights[i] * column_weights[j])[..., None]
        * coefficients[top + i, left + j]
        for i in range(4)
        for j in range(4)
    )
    return jnp.where(is_inside[..., None], rotated, jnp.mean(mean))


def _rotation_table(height: int, width: int) -> np.ndarray:
    """Returns cosine, sine and centre (row, column) of every angle. Shape `[90, 4]`.

    The centre is that of SciPy's enlarged image (`reshape=True`), in pixels of the
    part that is kept. Its size and offset are rounded, so they are computed in double
    precision by NumPy.
    """
    angles = np.deg2rad(np.arange(-_ROTATE, _ROTATE))
    cos, sin = np.cos(angles), np.sin(angles)
    rows = (height * cos + width * abs(sin) + 0.5).astype(int)
    columns = (width * cos + height * abs(sin) + 0.5).astype(int)
    row = (rows - 1) / 2 - ((rows - height) / 2).astype(int)
    column = (columns - 1) / 2 - ((columns - width) / 2).astype(int)
    return np.stack([cos, sin, row, column], axis=1)


def _spline_prefilter(num: int) -> np.ndarray:
    """Returns the matrix from pixels to the coefficients of their cubic spline.

    One mirrored coefficient is added at either end. Shape `[num + 2, num]`.
    """
    from scipy import ndimage  # Slow to import, and only rotation needs it.

    inside = ndimage.spline_filter1d(np.eye(num), order=3, axis=0, mode="mirror")
    return np.pad(inside, ((1, 1), (0, 0)), mode="reflect")


def _spline_taps(place: jax.Array, num: int) -> tuple[jax.Array, list[jax.Array]]:
    """Returns the first of four coefficients around each place, and their weights."""
    # The last pixel belongs to the cell before it, whose four coefficients exist.
    cell = jnp.clip(jnp.floor(place), 0, max(num - 2, 0))
    t = place - cell
    u = 1 - t
    weights = [u**3, 3 * t * t * (t - 2) + 4, 3 * u * u * (u - 2) + 4, t**3]
    return cell.astype(jnp.int32), [weight / 6 for weight in weights]


def draw_noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns standard normal noise. Shape `[H, W, D]`."""
    return jax.random.normal(key, shape, jnp.float32)


def apply_noise(image: jax.Array, noise: jax.Array, mean: jax.Array) -> jax.Array:
    """Adds a little of the noise to the image."""
    return image + _NOISE * noise.astype(image.dtype)


OPERATIONS = {
    "crop": Operation(draw_crop, apply_crop),
    "scale": Operation(draw_scale, apply_scale),
    "rotate": Operation(draw_rotate, apply_rotate),
    "noise": Operation(draw_noise, apply_noise),
}

"""Multi-formation: one stored image holds several smaller ones.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization" (IDC),
ICML 2022, https://arxiv.org/abs/2205.14959, section 4.1, and the authors' code
(`decode` in condense.py of https://github.com/snu-mllab/Efficient-Dataset-Condensation):
an image is cut into factor x factor tiles, and each tile is enlarged to the size of the
image. Networks are trained on what is decoded, for the bytes of what is stored.

Sides that the factor does not divide are first padded with 0, the mean of normalised
images; the authors pad with 0.5.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


def decode(images: Array, factor: int) -> Array:
    """Returns the parts of each image, one after another, enlarged.

    `[n, H, W, D]` -> `[n * factor**2, H, W, D]`. Between pixels of a part it
    interpolates linearly, beyond its outermost it repeats them.
    """
    if factor == 1:
        return images
    num, height, width, channels = images.shape
    rows, columns = -(-height // factor), -(-width // factor)
    more = ((0, factor * rows - height), (0, factor * columns - width))
    tiles = jnp.pad(images, ((0, 0), *more, (0, 0)))
    tiles = tiles.reshape(num, factor, rows, factor, columns, channels)
    tiles = tiles.swapaxes(2, 3).reshape(-1, rows, columns, channels)
    shape = (len(tiles), height, width, channels)
    return jax.image.resize(tiles, shape, "linear")


def encode(images: jax.Array, factor: int) -> jax.Array:
    """Puts images into the tiles of fewer, of which `decode` makes smoother ones.

    `[n * factor**2, H, W, D]` -> `[n, H, W, D]`. Of each image some rows and columns
    are kept, as in the authors' code.
    """
    if factor == 1:
        return images
    _, height, width, channels = images.shape
    rows, columns = (np.arange(-(-n // factor)) * factor for n in (height, width))
    tiles = images[:, rows][:, :, columns]
    tiles = tiles.reshape(-1, factor, factor, len(rows), len(columns), channels)
    size = (factor * len(rows), factor * len(columns), channels)
    return tiles.swapaxes(2, 3).reshape(-1, *size)[:, :height, :width]

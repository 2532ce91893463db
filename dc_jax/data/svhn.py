"""Reads the `.mat` files in which SVHN (cropped digits) is distributed.

`X` is `[32, 32, 3, n]` uint8, `y` `[n, 1]`; the digit 0 has the label 10.
http://ufldl.stanford.edu/housenumbers/
"""

import zlib
from pathlib import Path

import numpy as np
from absl import logging

from dc_jax.data.mat import read_mat
from dc_jax.errors import UserError, check_fits, one_line
from dc_jax.files.content import DAMAGE

_FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
_EXTRA = "extra_32x32.mat"


def has_svhn(folder: Path) -> bool:
    """Whether a folder has a file of SVHN."""
    return any((folder / file).is_file() for file in _FILES.values())


def read_svhn(folder: Path) -> dict[str, np.ndarray]:
    """Reads both splits; the images of the file `extra` are not used.

    Returns:
      `train_images`, `test_images`, `[n, 32, 32, 3]` uint8; `train_labels`,
      `test_labels`, `[n]` int32.

    Raises:
      UserError: a file is missing, damaged, or holds something else.
    """
    arrays = {}
    for split, file in _FILES.items():
        if not (folder / file).is_file():
            raise UserError(f"{folder} lacks {file} of SVHN.")
        images, labels = _read(folder / file)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    if (folder / _EXTRA).exists():
        logging.info("%s is not used.", folder / _EXTRA)
    return arrays


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns images `[n, H, W, D]` uint8 and labels `[n]` int32 of a file."""
    try:
        # The images are there twice for a moment.
        check_fits(2 * path.stat().st_size, "its values")
        held = read_mat(path.read_bytes())
        images, labels = (held.get(name, np.zeros(())) for name in ("X", "y"))
        if images.ndim != 4 or images.dtype != np.uint8:
            got = f"{images.dtype} {list(images.shape)}"
            raise UserError(f"its X must be uint8 [H, W, D, n], got {got}")
        if labels.shape != (images.shape[3], 1):
            got = list(labels.shape)
            raise UserError(f"its y must be [{images.shape[3]}, 1], got {got}")
    except (*DAMAGE, zlib.error) as error:
        raise UserError(
            f"{path} is no .mat file of SVHN that can be read: {one_line(error, 200)}."
        ) from error
    labels = labels[:, 0]
    if not np.all((labels >= 1) & (labels <= 10)):
        got = f"{labels.min()} to {labels.max()}"
        raise UserError(f"{path}: the labels must be 1 to 10, got {got}.")
    images = np.ascontiguousarray(images.transpose(3, 0, 1, 2))
    return images, (labels % 10).astype(np.int32)

"""Reads the sets that the authors' code saves, such as `res_DC_*.pt`.

Such a file has a list `data` with a pair per experiment: images `[C * I, D, H, W]`,
float, and labels `[C * I]`, integers. How the images were normalised depends on the
dataset, which the file does not name.
https://github.com/VICO-UoE/DatasetCondensation (main.py, main_DM.py)
"""

import os
import pickle
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from dc_jax.base import SyntheticSet
from dc_jax.data.sources import published_facts
from dc_jax.errors import UserError, load_package, one_line
from dc_jax.sets import set_file


def read(path: Path, dataset: str | None, experiment: int) -> SyntheticSet:
    """Reads the set of one experiment, a number from 0.

    PyTorch reads the file with `weights_only=True`, which allows tensors and plain
    containers, and refuses code. The mean and standard deviation are those published
    for the dataset, one of the paper.

    Raises:
      UserError: PyTorch is missing, the dataset is unknown, or the file is damaged or
        holds no such set.
    """
    if dataset is None:
        raise UserError(
            f"{path} does not say what was condensed: give its dataset, such as mnist."
        )
    mean, std, class_names = published_facts(dataset)
    images, labels = _load_pair(path, experiment)
    if images.shape[1] != len(mean) or set(labels) != set(range(len(class_names))):
        raise UserError(
            f"{path} has {images.shape[1]} channel(s) and the labels {labels.min()} to "
            f"{labels.max()}; dataset {dataset} has {len(mean)} and 0 to "
            f"{len(class_names) - 1}."
        )
    counts = np.bincount(labels)
    if counts.min() != counts.max():
        raise UserError(
            f"{path} has classes of {counts.min()} to {counts.max()} images, expected "
            "the same number in every class."
        )
    order = np.argsort(labels, kind="stable").reshape(len(counts), -1)
    arrays = {
        "images": np.ascontiguousarray(np.moveaxis(images, 1, -1)[order]),
        "labels": labels[order].astype(np.int32),
        "class_names": np.array(class_names),
        "mean": mean,
        "std": std,
    }
    return set_file.from_arrays(arrays, str(path))


def _load_pair(path: Path, experiment: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images `[n, D, H, W]` float32 and labels `[n]`."""
    torch = load_package("torch", "torch")
    try:
        _check_size(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Without PyTorch's message, which tells how to run the code in the file.
        raise UserError(
            f"{path} cannot be read: it is damaged, or holds more than tensors and "
            "plain containers, such as code."
        ) from error
    # A damaged pickle can raise anything: it is a program, here one of harmless steps.
    except Exception as error:
        raise UserError(f"{path} cannot be read: {one_line(error, 200)}") from error

    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list) or not data:
        raise UserError(f"{path} is no set of the authors' code: it has no list data.")
    if not 0 <= experiment < len(data):
        raise UserError(f"{path} has the sets 0 to {len(data) - 1}, not {experiment}.")
    pair = data[experiment]
    if not _is_pair(pair, torch):
        raise UserError(
            f"{path} is no set of the authors' code: its set {experiment} must be a "
            "pair of float images [n, D, H, W] and integer labels [n]."
        )
    # With strides of 0 a tensor can be larger than all memory.
    if sum(one.nbytes for one in pair) > os.path.getsize(path):
        raise UserError(f"{path} cannot be read: a tensor is longer than the file.")
    return pair[0].detach().float().numpy(), pair[1].numpy()


def _is_pair(pair: Any, torch: types.ModuleType) -> bool:
    """Whether a value is a pair of images and labels that NumPy can have."""
    return (
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(
            type(one) is torch.Tensor
            and one.layout is torch.strided
            and one.device.type == "cpu"
            and not (one.is_neg() or one.is_conj())
            for one in pair
        )
        and (pair[0].ndim, pair[1].ndim) == (4, 1)
        and pair[0].is_floating_point()
        and pair[1].dtype in (torch.int32, torch.int64)
        and len(pair[0]) == len(pair[1]) > 0
    )


def _check_size(path: Path) -> None:
    """Raises a `UserError` for a file whose content is larger than the file."""
    if not zipfile.is_zipfile(path):
        return  # The format of PyTorch until 1.5, which compresses nothing.
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    is_plain = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not is_plain or sum(m.file_size for m in members) > os.path.getsize(path):
        raise UserError("it is compressed.")

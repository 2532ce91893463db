"""Reads the sets that the code of papers saves as `.pt` files of PyTorch.

- DC, DSA, DM: a list `data` with a pair per experiment, normalised images
  `[C * I, D, H, W]`, float, and labels `[C * I]`, integers.
  https://github.com/VICO-UoE/DatasetCondensation (main.py, main_DM.py)
- MTT, DATM: normalised images alone; labels, or logits `[C * I, C]`, are in a file
  beside. The softmax of logits are the soft labels, as in the code of DATM.
  https://github.com/GeorgeCazenavette/mtt-distillation (distill.py)
- IDC, NCFM: a pair of images in [0, 1] and labels.
  https://github.com/snu-mllab/Efficient-Dataset-Condensation (condense.py)

How images were normalised depends on the dataset, which the files do not name.
"""

import os
import pickle
import types
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from dc_jax.base import SyntheticSet
from dc_jax.data.sources import published_facts
from dc_jax.errors import UserError, load_package, one_line
from dc_jax.sets import set_file

SUFFIXES = (".pt", ".pth")
_KNOWN = (
    "a dict with a list data of pairs (DC, DSA, DM), a tensor of images with another "
    "file of labels (MTT, DATM) or a pair of images and labels (IDC, NCFM); in PyTorch "
    "torch.save({'data': [[images, labels]]}, path) converts normalised images "
    "[n, D, H, W] and integer labels [n]"
)
# How far images in [0, 1] may be outside by rounding.
_ROUNDING = 1e-3


def read(path: Path, dataset: str | None, experiment: int) -> SyntheticSet:
    """Reads the set of one experiment, a number from 0.

    PyTorch reads the file with `weights_only=True`, which allows tensors, plain
    containers and here NumPy's numbers, and refuses code. The mean and standard
    deviation are those published for the dataset, one of the paper.

    Raises:
      UserError: PyTorch is missing, the dataset is unknown, or the file is damaged or
        holds no such set.
    """
    if dataset is None:
        raise UserError(
            f"{path} does not say what was condensed: give its dataset, such as mnist."
        )
    try:
        mean, std, class_names = published_facts(dataset)
    except UserError as error:
        raise UserError(f"{path} has no mean and deviation: {error}") from error
    images, labels, is_normalised = _load_pair(path, experiment)
    soft_labels = None
    if labels.ndim == 2:
        with np.errstate(invalid="ignore"):  # What is not finite is refused below.
            soft_labels, labels = softmax(labels, axis=1), labels.argmax(1)
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
    images = np.ascontiguousarray(np.moveaxis(images, 1, -1)[order])
    arrays = {
        "images": images if is_normalised else (images - mean) / std,
        "labels": labels[order].astype(np.int32),
        "class_names": np.array(class_names),
        "mean": mean,
        "std": std,
    }
    if soft_labels is not None:
        arrays["soft_labels"] = soft_labels[order].astype(np.float32)
    return set_file.from_arrays(arrays, str(path))


def _load_pair(path: Path, experiment: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Returns images `[n, D, H, W]` float32, labels, whether images are normalised.

    Labels are classes `[n]` or logits `[n, C]`. The format is recognised by what is in
    the file.
    """
    torch = load_package("torch", "torch")
    content = _load(path, torch)
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        sets = content["data"]
        if sets and not 0 <= experiment < len(sets):
            last = len(sets) - 1
            raise UserError(f"{path} has the sets 0 to {last}, not {experiment}.")
        if sets:
            return *_check_pair(
                sets[experiment], [path], f"set {experiment}", torch
            ), True
    elif experiment:
        raise UserError(f"{path} holds one set, number 0; got experiment {experiment}.")
    elif isinstance(content, torch.Tensor) and content.ndim == 4:
        beside = _find_labels(path)
        pair = [content, _load(beside, torch)]
        return *_check_pair(pair, [path, beside], "set", torch), True
    elif isinstance(content, list | tuple) and len(content) == 2:
        images, labels = _check_pair(content, [path], "set", torch)
        low, high = images.min(), images.max()
        if not -_ROUNDING <= low <= high <= 1 + _ROUNDING:
            raise UserError(
                f"{path} is a pair as of IDC and NCFM, whose images are in [0, 1], but "
                f"these go from {low:.3g} to {high:.3g}; if they are normalised, save "
                "{'data': [[images, labels]]} with torch.save."
            )
        return images, labels, False
    kind = type(content).__name__
    shape = f" {list(content.shape)}" if isinstance(content, torch.Tensor) else ""
    raise UserError(
        f"{path} is no set of the authors' code: it is a {kind}{shape}, has no list "
        f"data; expected {_KNOWN}."
    )


def _load(path: Path, torch: types.ModuleType) -> Any:
    """Returns what is in a file, without running code in it."""
    # How NumPy 1 and 2 pickle numbers, such as the accuracies beside the sets.
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = (np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType)
    allowed = [*((scalar, name) for name in names), np.dtype, *kinds]
    try:
        _check_size(path)
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Without PyTorch's message, which tells how to run the code in the file.
        raise UserError(
            f"{path} cannot be read: it is damaged, or holds more than tensors and "
            "plain containers, such as code."
        ) from error
    # A damaged pickle can raise anything: it is a program, here one of harmless steps.
    except Exception as error:
        text = f"{path} cannot be read as a file of PyTorch: {one_line(error, 200)}"
        raise UserError(text) from error


def _find_labels(path: Path) -> Path:
    """Returns the file with the labels of the images in a file, as MTT names it."""
    name = path.name.replace("images", "labels")
    if name == path.name or not path.with_name(name).is_file():
        wanted = name if name != path.name else "labels_X.pt beside images_X.pt"
        raise UserError(
            f"{path} is a tensor of images, as of MTT and DATM; its labels must be in "
            f"{path.parent / wanted}."
        )
    return path.with_name(name)


def _check_pair(
    pair: Any, files: Sequence[Path], which: str, torch: types.ModuleType
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images `[n, D, H, W]` float32 and labels, as NumPy arrays.

    Labels are classes `[n]`, or logits `[n, C]`, float64. The pair is in one or two
    files.
    """
    path = files[0]
    if not _is_pair(pair, torch):
        raise UserError(
            f"{path} is no set of the authors' code: its {which} must be a pair of "
            "float images [n, D, H, W] and integer labels [n], or logits [n, C]."
        )
    # With strides of 0 a tensor can be larger than all memory.
    if sum(one.nbytes for one in pair) > sum(map(os.path.getsize, {*files})):
        raise UserError(f"{path} cannot be read: a tensor is longer than the file.")
    images, labels = (one.detach() for one in pair)
    if labels.ndim == 2:
        labels = labels.double()
    return images.float().numpy(), labels.numpy()


def _is_pair(pair: Any, torch: types.ModuleType) -> bool:
    """Whether a value is a pair of images and labels that NumPy can have."""
    return (
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(
            # A parameter is a tensor that is trained.
            type(one) in (torch.Tensor, torch.nn.Parameter)
            and one.layout is torch.strided
            and one.device.type == "cpu"
            and not (one.is_neg() or one.is_conj())
            for one in pair
        )
        and pair[0].ndim == 4
        and pair[0].is_floating_point()
        and _are_labels(pair[1], torch)
        and len(pair[0]) == len(pair[1]) > 0
    )


def _are_labels(labels: Any, torch: types.ModuleType) -> bool:
    if labels.ndim == 2:
        return labels.is_floating_point() and labels.shape[1] > 1
    return labels.ndim == 1 and labels.dtype in (torch.int32, torch.int64)


def _check_size(path: Path) -> None:
    """Raises a `UserError` for a file whose content is larger than the file."""
    if not zipfile.is_zipfile(path):
        return  # The format of PyTorch until 1.5, which compresses nothing.
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    is_plain = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not is_plain or sum(m.file_size for m in members) > os.path.getsize(path):
        raise UserError("it is compressed.")

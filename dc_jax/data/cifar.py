"""Reads the files in which CIFAR-10 and CIFAR-100 are distributed.

Both exist as pickles, `cifar-10-batches-py`, and as records of bytes,
`cifar-10-batches-bin`: a label (of CIFAR-100 two, coarse and fine), then 32x32 pixels,
plane by plane. https://www.cs.toronto.edu/~kriz/cifar.html
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dc_jax.data.plain_pickle import read_plain_pickle, to_array, to_bytes
from dc_jax.errors import UserError, check_fits, one_line
from dc_jax.files.content import DAMAGE

_SHAPE = (3, 32, 32)
_SIZE = 3072
_NAMES = ("cifar10", "cifar100")
_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The files of one distribution."""

    folder: str  # What it is called.
    train: Sequence[str]
    test: Sequence[str]
    names: str  # The file of the names of the classes.
    # Returns images `[n, H, W, D]` uint8 and labels `[n]` of the content of a file.
    read: Callable[[bytes], tuple[np.ndarray, np.ndarray]]
    read_names: Callable[[bytes], list[str]]


def find_cifar(place: Path, name: str = "") -> Path | None:
    """Returns the folder that has files of CIFAR: `place` or one in it.

    `name`, of the dataset, chooses where a folder has several.

    Raises:
      UserError: there are several, and it chooses none.
    """
    found = [place / layout.folder for layout in _LAYOUTS]
    found = [folder for folder in (place, *found) if _find_layout(folder)]
    if name in _NAMES:
        wanted = name.replace("cifar", "cifar-") + "-"
        found = [f for f in found if _find_layout(f).folder.startswith(wanted)][:1]
    if len(found) > 1 and found[0] != place:
        told = " and ".join(map(str, found))
        raise UserError(f"CIFAR is in {told}: give one as config.dataset.path.")
    return next(iter(found), None)


def read_cifar(folder: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Reads both splits from a folder of `find_cifar`.

    Returns:
      `train_images`, `test_images`, `[n, 32, 32, 3]` uint8; `train_labels`,
      `test_labels`, `[n]` int32, the fine ones of CIFAR-100; and the names of the
      classes where there is a file of them.

    Raises:
      UserError: a file is missing, damaged, or holds something else.
    """
    layout = _find_layout(folder)
    arrays = {}
    for split in ("train", "test"):
        files = [folder / file for file in getattr(layout, split)]
        missing = [path.name for path in files if not path.is_file()]
        if missing:
            raise UserError(f"{folder} lacks {', '.join(missing)} of CIFAR.")
        check_fits(sum(path.stat().st_size for path in files), f"the files of {folder}")
        pairs = [_read_file(path, layout.read) for path in files]
        images, labels = (np.concatenate(part) for part in zip(*pairs, strict=True))
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    path = folder / layout.names
    if not path.is_file():
        return arrays, None
    return arrays, tuple(_read_file(path, layout.read_names))


def _find_layout(folder: Path) -> _Layout | None:
    for layout in _LAYOUTS:
        # A folder of anything can have files called train and test.
        first = (layout.train[0], layout.test[0], layout.names)
        if sum((folder / file).is_file() for file in first) > 1:
            return layout
    return None


def _read_file(path: Path, read: Callable) -> tuple | list:
    try:
        return read(path.read_bytes())
    except DAMAGE as error:
        raise UserError(
            f"{path} is no file of CIFAR that can be read: {one_line(error, 200)}."
        ) from error


def _unpickle(data: bytes) -> dict:
    content = read_plain_pickle(data)
    if not isinstance(content, dict):
        raise UserError("it holds no dict")
    return {to_bytes(key).decode("latin-1"): value for key, value in content.items()}


def _read_pickle(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    content = _unpickle(data)
    key = "fine_labels" if "fine_labels" in content else "labels"
    labels = content[key]
    if not (
        isinstance(labels, list)
        and all(type(one) is int and 0 <= one < 2**31 for one in labels)
    ):
        raise UserError(f"its {key} are no list of integers from 0")
    return _to_images(to_array(content["data"])), np.array(labels, np.int32)


def _read_pickled_names(data: bytes) -> list[str]:
    content = _unpickle(data)
    key = "fine_label_names" if "fine_label_names" in content else "label_names"
    return [to_bytes(name).decode() for name in content[key]]


def _read_records(data: bytes, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    size = num_labels + _SIZE
    if len(data) % size:
        raise UserError(f"it has {len(data)} bytes, must be a multiple of {size}")
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    images = _to_images(records[:, num_labels:])
    return images, records[:, num_labels - 1].astype(np.int32)


def _read_lines(data: bytes) -> list[str]:
    return data.decode().split()


def _to_images(planes: np.ndarray) -> np.ndarray:
    """Returns `[n, H, W, D]` from `[n, D * H * W]`."""
    return np.ascontiguousarray(planes.reshape(-1, *_SHAPE).transpose(0, 2, 3, 1))


_LAYOUTS = (
    _Layout(
        "cifar-10-batches-py",
        _BATCHES,
        ["test_batch"],
        "batches.meta",
        _read_pickle,
        _read_pickled_names,
    ),
    _Layout(
        "cifar-10-batches-bin",
        [f"{name}.bin" for name in _BATCHES],
        ["test_batch.bin"],
        "batches.meta.txt",
        lambda data: _read_records(data, 1),
        _read_lines,
    ),
    _Layout(
        "cifar-100-python",
        ["train"],
        ["test"],
        "meta",
        _read_pickle,
        _read_pickled_names,
    ),
    _Layout(
        "cifar-100-binary",
        ["train.bin"],
        ["test.bin"],
        "fine_label_names.txt",
        lambda data: _read_records(data, 2),
        _read_lines,
    ),
)

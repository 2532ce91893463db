"""The formats in which datasets lie in files, in one table."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dc_jax.data import csv_source, svhn, tfds_source
from dc_jax.data.cifar import find_cifar, read_cifar
from dc_jax.data.folder import has_classes, read_folder
from dc_jax.data.idx import find_idx_files, read_idx_folder
from dc_jax.data.npz_source import read_npz_dataset
from dc_jax.data.parquet import find_parquet_files, read_parquet
from dc_jax.errors import UserError, quietly

_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".7z", ".rar")
# How many files an error names.
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be loaded."""

    place: Path
    name: str  # Of the dataset.
    stream: bool = False
    image_size: int | None = None


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What a format holds."""

    # `train_images`, `train_labels`, `test_images`, `test_labels` as `Dataset` has
    # them; those of the test split can be missing.
    arrays: dict[str, np.ndarray]
    class_names: tuple[str, ...] | None  # None where the files do not tell them.
    source: str  # In words.


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of files."""

    name: str  # As `dataset.name`, where only this format is meant.
    words: str  # What is there, for errors.
    # Whether a path has files of the format, for the dataset of a name.
    holds: Callable[[Path, str], bool]
    load: Callable[[Request], Loaded]
    by_name_only: bool = False  # It is not looked for under other names.
    is_resized: bool = False  # Whether pictures can be resized.
    is_streamed: bool = True  # Whether images can stay off the devices.


def find_format(place: Path, name: str) -> Format:
    """Returns the format of the files at a path, for the dataset of a name.

    Raises:
      UserError: there are no such files; it tells what is there.
    """
    asked = [one for one in FORMATS if one.name == name]
    allowed = asked or [one for one in FORMATS if not one.by_name_only]
    for one in allowed:
        if one.holds(place, name):
            return one
    others = [one for one in FORMATS if one.name != "tfds" and one.holds(place, name)]
    if others:
        raise UserError(
            f"config.dataset.path={place} holds {others[0].words}: did you mean "
            f"config.dataset.name={others[0].name}?"
        )
    kinds = {"folder": place.is_dir(), "npz": place.is_file()}
    if kinds.get(name):
        return asked[0]  # It tells what is wrong with it.
    wanted = asked[0].words if asked else f"nothing that '{name}' is read from"
    verb = "must have" if asked else "holds"
    raise UserError(
        f"config.dataset.path={place} {verb} {wanted}; {describe(place)}. Nothing is "
        "downloaded to a path that is given."
    )


def describe(place: Path) -> str:
    """Returns in words what is at a path."""
    if not place.exists():
        return "there is no such file or folder"
    if not place.is_dir():
        is_archive = place.name.lower().endswith(_ARCHIVES)
        return f"it is {'an archive, to be unpacked' if is_archive else 'a file'}"
    names = sorted(path.name for path in place.iterdir())
    if not names:
        return "the folder is empty"
    if "dataset_info.json" in names:
        return f"it is in a data folder of TFDS; did you mean {place.parent.parent}?"
    prepared = [name for name in names if _has_prepared(place, name)]
    if prepared:
        return f"it holds the TFDS dataset(s) {', '.join(prepared)}"
    archives = [name for name in names if name.lower().endswith(_ARCHIVES)]
    if archives:
        return f"it holds {', '.join(archives[:_NAMED])}, to be unpacked"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"it holds {', '.join(names[:_NAMED])}{more}"


def _has_prepared(folder: Path, name: str) -> bool:
    """Whether the data folder of TFDS `folder` has a dataset, in any format."""
    found = folder / re.split("[:/]", name)[0]
    levels = (f"{depth}dataset_info.json" for depth in ("", "*/", "*/*/"))
    return any(next(found.glob(level), None) for level in levels)


def _load_idx(request: Request) -> Loaded:
    folder = find_idx_files(request.place, request.name)
    return Loaded(read_idx_folder(folder), None, f"IDX files in {folder}")


def _load_cifar(request: Request) -> Loaded:
    folder = find_cifar(request.place, request.name)
    return Loaded(*read_cifar(folder), f"CIFAR's files in {folder}")


def _load_svhn(request: Request) -> Loaded:
    arrays = svhn.read_svhn(request.place)
    return Loaded(arrays, None, f"SVHN's files in {request.place}")


def _load_parquet(request: Request) -> Loaded:
    read = read_parquet(request.place, request.image_size)
    return Loaded(*read, f"Parquet files in {request.place}")


def _load_csv(request: Request) -> Loaded:
    return Loaded(*csv_source.read_csv(request.place), f"CSV in {request.place}")


def is_prepared(builder) -> bool:
    """Whether TFDS has prepared a dataset; where it has not, our own message tells."""
    with quietly():
        return builder.is_prepared()


def load_tfds(request: Request) -> Loaded:
    """Loads a dataset that is prepared in the data folder of TFDS, the path."""
    builder = tfds_source.open_builder(request.name, data_dir=str(request.place))
    if not is_prepared(builder):
        raise UserError(
            f"config.dataset.path={request.place} has {request.name} only in part, or "
            "another version or config of it; nothing is downloaded to a path that is "
            "given."
        )
    return read_tfds(builder, request)


def read_tfds(builder, request: Request) -> Loaded:
    """Reads what `load_tfds` does, from an open builder."""
    *read, name = tfds_source.read_prepared(
        builder, stream=request.stream, image_size=request.image_size
    )
    return Loaded(*read, f"TFDS {name}")


def _load_folder(request: Request) -> Loaded:
    read = read_folder(request.place, request.image_size)
    return Loaded(*read, str(request.place))


def _load_npz(request: Request) -> Loaded:
    return Loaded(*read_npz_dataset(request.place), str(request.place))


def _is_npz(place: Path, name: str) -> bool:
    return place.suffix.lower() == ".npz" and place.is_file()


# The first one that a path holds is read.
FORMATS = (
    Format(
        "idx",
        "IDX files of MNIST",
        lambda place, name: find_idx_files(place, name) is not None,
        _load_idx,
    ),
    Format(
        "cifar",
        "batches of CIFAR-10 or CIFAR-100",
        lambda place, name: find_cifar(place, name) is not None,
        _load_cifar,
    ),
    Format(
        "svhn_mat",
        ".mat files of SVHN",
        lambda place, name: svhn.has_svhn(place),
        _load_svhn,
    ),
    Format(
        "parquet",
        "Parquet files",
        lambda place, name: bool(find_parquet_files(place)),
        _load_parquet,
        is_resized=True,
    ),
    Format(
        "csv",
        "CSV files with a label and the pixels of an image in each row",
        csv_source.has_csv,
        _load_csv,
    ),
    Format(
        "tfds",
        "a dataset of TFDS",
        _has_prepared,
        load_tfds,
        is_resized=True,
    ),
    Format(
        "folder",
        "class sub-folders of pictures",
        lambda place, name: has_classes(place),
        _load_folder,
        by_name_only=True,
        is_resized=True,
        is_streamed=False,
    ),
    Format(
        "npz",
        "an .npz file of arrays",
        _is_npz,
        _load_npz,
        by_name_only=True,
        is_streamed=False,
    ),
)

"""Reads Parquet files of pictures, as of the Hugging Face Hub."""

import collections
import itertools
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dc_jax.data.splits import name_splits
from dc_jax.data.table import Table, read_tables
from dc_jax.errors import UserError, load_package, one_line
from dc_jax.files.content import DAMAGE

# Rows that are read at a time.
_ROWS = 64
# A part of a split: its name, place and how many there are.
_PART = re.compile(r"(.+?)-(\d{1,9})-of-(\d{1,9})\b")
# How much larger than their file pictures can be, which are compressed already.
_TIMES, _AND = 100, 2**26


def find_parquet_files(place: Path) -> dict[str, list[Path]]:
    """Returns the files of "train", "test" and "validation", where there are any.

    See `name_splits`. `place` is a file, or a folder with files such as
    `train-00000-of-00001.parquet`, or with folders of such files, such as `data`.

    Raises:
      UserError: it cannot be told which files are those of the training split.
    """
    if place.is_file():
        return {"train": [place]} if place.suffix.lower() == ".parquet" else {}
    paths = sorted(place.glob("*.parquet")) or sorted(place.glob("*/*.parquet"))
    paths = [path for path in paths if not path.name.startswith(".")]
    if len({path.parent for path in paths}) > 1:
        # Each split may have its own folder.
        by_name = _by_name(paths, lambda path: path.parent.name)
        splits = name_splits(by_name, str(place), with_validation=True)
        if "train" not in splits:
            told = ", ".join(sorted(by_name))
            raise UserError(
                f"{place} has Parquet files in {told}: give one as config.dataset.path."
            )
    else:
        by_name = _by_name(paths, lambda path: re.split(r"[-_.]", path.name)[0])
        if len(by_name) == 1:
            return {"train": paths}
        splits = name_splits(by_name, str(place), with_validation=True)
    if by_name and "train" not in splits:
        told = ", ".join(path.name for path in paths[:5])
        raise UserError(
            f"{place} has {told}; one file must be called train-... or train.parquet."
        )
    return {split: by_name[name] for split, name in splits.items()}


def read_parquet(
    place: Path, image_size: int | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Reads all pictures of the files of `find_parquet_files`; see `read_tables`.

    Raises:
      UserError: pyarrow is missing, or a file is missing, damaged or holds something
        else.
    """
    load_package("pyarrow.parquet", "formats")
    files = find_parquet_files(place)
    if not place.is_file():  # One part alone can be meant.
        for paths in files.values():
            _check_whole(paths)
    tables = {split: _open_table(paths) for split, paths in files.items()}
    return read_tables(tables, str(place), image_size)


def _check_whole(paths: Iterable[Path]) -> None:
    """Checks that all parts are there, of files as `train-00000-of-00002.parquet`."""
    found = collections.defaultdict(set)
    for path in paths:
        if match := _PART.match(path.name):
            name, place, num = match.groups()
            found[path.parent, name, num].add(int(place))
    for (folder, name, num), places in found.items():
        missing = (place for place in range(int(num)) if place not in places)
        some = [f"{name}-{place:05}-of-{num}" for place in itertools.islice(missing, 4)]
        if some:
            more = " and others" if len(some) == 4 else ""
            raise UserError(
                f"{folder} has {len(places)} of the {int(num)} Parquet files of "
                f"{name}; missing: {', '.join(some[:3])}{more}."
            )


def _by_name(paths, name_of) -> dict[str, list[Path]]:
    found = collections.defaultdict(list)
    for path in paths:
        found[name_of(path)].append(path)
    return dict(found)


def _open_table(paths: list[Path]) -> Table:
    """Returns the table in files that are parts of one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    damage = (*DAMAGE, pa.ArrowException)

    def read(columns: list[str]) -> Iterable["pa.RecordBatch"]:
        for path in paths:
            try:
                with pq.ParquetFile(path) as file:
                    yield from file.iter_batches(_ROWS, columns=columns)
            except UserError:
                raise
            except damage as error:
                raise _unreadable(path, error) from error

    try:
        schema = pq.read_schema(paths[0])
    except damage as error:
        raise _unreadable(paths[0], error) from error
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and the others"
    most = _TIMES * sum(path.stat().st_size for path in paths) + _AND
    return Table(name, schema, read, most)


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read: {one_line(error, 200)}")

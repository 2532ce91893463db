"""Reads tables of Hugging Face: a column of encoded pictures, and one of labels."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from dc_jax.data.decode import Encoded, decode
from dc_jax.data.labels import read_labels
from dc_jax.errors import UserError, check_fits

if TYPE_CHECKING:
    import pyarrow

# Columns where the table does not say what they are. The first that is there counts.
_IMAGES = ("image", "img", "images")
_LABELS = ("label", "labels", "fine_label", "class")


@dataclasses.dataclass(frozen=True)
class Table:
    """The table of one split."""

    name: str  # For errors.
    schema: "pyarrow.Schema"
    # Yields the rows of these columns, some at a time.
    read: Callable[[list[str]], Iterable["pyarrow.RecordBatch"]]
    most: int = 2**40  # More bytes than all its pictures can have.


def read_tables(
    tables: Mapping[str, Table], where: str, image_size: int | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Reads the pictures and labels of all splits, as `decode` does.

    The columns are those that the table calls `Image` and `ClassLabel`, or those with
    usual names. Where the labels of "test" are all -1, "validation" takes its place, or
    nothing; otherwise that is not read.

    Returns:
      The arrays of `decode`; and the names of the classes, None where nothing tells
      them.

    Raises:
      UserError: a column is missing or holds something else, or a picture cannot be
        read.
    """
    pictures, class_names = {}, None
    for split, table in _with_labels(tables).items():
        features = _features(table.schema)
        image = _find_column(table, features, "Image", _IMAGES)
        label = _find_label(table)
        names = features.get(label, {}).get("names")
        if _is_names(names) and class_names is None:
            class_names = tuple(names)
        contents, labels = _read_columns(table, image, label)
        labels, class_names = read_labels(
            np.asarray(labels), f"{table.name}: {label}", class_names
        )
        pictures[split] = [
            Encoded(f"row {place} of {table.name}", int(one), content)
            for place, (one, content) in enumerate(zip(labels, contents, strict=True))
        ]
    return decode(pictures, where, image_size), class_names


def _with_labels(tables: Mapping[str, Table]) -> dict[str, Table]:
    """Returns the tables of "train" and of the split to test on, if there is one."""
    tables = dict(tables)
    validation, test = tables.pop("validation", None), tables.get("test")
    if test is None or any(
        label != -1
        for batch in test.read([_find_label(test)])
        for label in batch.column(0).to_pylist()
    ):
        return tables
    del tables["test"]
    if validation is None:
        logging.info("%s has no labels but -1; it is not used.", test.name)
        return tables
    logging.info("%s has no labels but -1: %s is used.", test.name, validation.name)
    return tables | {"test": validation}


def _find_label(table: Table) -> str:
    return _find_column(table, _features(table.schema), "ClassLabel", _LABELS)


def _features(schema: "pyarrow.Schema") -> dict[str, dict[str, Any]]:
    """Returns what Hugging Face notes about the columns, by name."""
    note = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(note)["info"]["features"]
        return {k: v for k, v in features.items() if isinstance(v, dict)}
    # It is missing or damaged, and can be done without.
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _find_column(
    table: Table, features: dict[str, dict[str, Any]], kind: str, usual: Iterable[str]
) -> str:
    noted = [name for name, note in features.items() if note.get("_type") == kind]
    for name in (*noted, *usual):
        if table.schema.names.count(name) == 1:
            return name
    raise UserError(
        f"{table.name} has the columns {', '.join(table.schema.names)[:200]}, must "
        f"have one of {', '.join(usual)}."
    )


def _is_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _read_columns(table: Table, image: str, label: str) -> tuple[list[bytes], list]:
    """Returns the encoded pictures and the labels of all rows."""
    contents, labels, size = [], [], 0
    for batch in table.read([image, label]):
        for row in batch.column(image).to_pylist():
            content = row.get("bytes") if isinstance(row, dict) else row
            if not isinstance(content, bytes):
                raise UserError(
                    f"{table.name}: {image} must hold the bytes of pictures, got "
                    f"{batch.schema.field(image).type} without them in row "
                    f"{len(contents)}."
                )
            size += len(content)
            check_fits(size, f"the pictures of {table.name}")
            if size > table.most:
                raise UserError(
                    f"{table.name} cannot be read: its pictures are many times larger "
                    "than the file."
                )
            contents.append(content)
        labels += batch.column(label).to_pylist()
    bad = next((one for one in labels if not isinstance(one, str | int | float)), 0)
    if bad is None or bad:
        raise UserError(
            f"{table.name}: {label} must be numbers or strings, got {bad!r:.80}."
        )
    return contents, labels

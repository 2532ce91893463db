"""Reads datasets of the Hugging Face Hub by name, with the package `datasets`."""

import logging as std_logging
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from dc_jax.data.internet import is_reachable
from dc_jax.data.splits import name_splits
from dc_jax.data.table import Table, read_tables
from dc_jax.errors import UserError, load_package, one_line

if TYPE_CHECKING:
    import pyarrow

PREFIX = "hf:"
_NAME = re.compile(r"hf:([\w.-]+(?:/[\w.-]+)?)(?::([\w. -]+))?")
_ROWS = 64
_ADVICE = (
    "or download its Parquet files elsewhere and give "
    "--config.dataset.name=parquet --config.dataset.path=FOLDER"
)


def read_hub(
    name: str, image_size: int | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Reads `hf:OWNER/NAME` or `hf:OWNER/NAME:CONFIG`; see `read_tables`.

    `datasets` downloads it once and keeps it in its own cache.

    Raises:
      ConnectionError: there is no network, and it is not in the cache.
      UserError: `datasets` is missing or cannot load it, or it holds something else.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        wanted = "hf:OWNER/NAME or hf:OWNER/NAME:CONFIG"
        raise UserError(f"dataset.name must be {wanted}, got '{name}'.")
    is_online = is_reachable(
        [os.environ.get("HF_ENDPOINT") or "https://huggingface.co"]
    )
    if not is_online:
        # It would try for minutes otherwise. What is in its cache can still be read.
        os.environ["HF_HUB_OFFLINE"] = "1"
    # It tells at length which other packages there are.
    std_logging.getLogger("datasets").setLevel(std_logging.WARNING)
    library = load_package("datasets", "huggingface")
    library.disable_progress_bars()
    try:
        found = library.load_dataset(match[1], match[2])
    # The library raises its own types, and those of five others.
    except Exception as error:
        if is_online:
            problem = f"cannot be loaded ({one_line(error, 300)})"
            raise UserError(
                f"dataset '{name}' {problem}: check it, {_ADVICE}."
            ) from error
        raise ConnectionError(
            f"dataset '{name}' is not in the cache of datasets, and huggingface.co "
            f"cannot be reached: connect, {_ADVICE}."
        ) from error
    splits = name_splits(found, name, with_validation=True)
    if "train" not in splits:
        raise UserError(
            f"dataset '{name}' has the splits {', '.join(found)}, no train."
        )
    tables = {
        split: _open_table(found[theirs], f"{theirs} of {name}", library)
        for split, theirs in splits.items()
    }
    return read_tables(tables, name, image_size)


def _open_table(split, name: str, library) -> Table:
    """Returns the table of a `datasets.Dataset`, whose pictures stay encoded."""
    encoded = split
    for column, feature in split.features.items():
        if isinstance(feature, library.Image):
            encoded = encoded.cast_column(column, library.Image(decode=False))

    def read(columns: list[str]) -> Iterable["pyarrow.RecordBatch"]:
        rows = encoded.select_columns(columns).with_format("arrow")
        for table in rows.iter(_ROWS):
            yield from table.to_batches()

    return Table(name, split.features.arrow_schema, read)

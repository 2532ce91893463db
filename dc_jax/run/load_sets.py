"""Loads saved sets on the first process, for all."""

import os
from typing import Any

from dc_jax.base import SyntheticSet
from dc_jax.data.whitening import Whitening
from dc_jax.devices import processes
from dc_jax.files.paths import user_path
from dc_jax.sets import authors_pt, formats, set_file


def load_sets(path: str, dataset: str) -> list[SyntheticSet]:
    """Loads sets on the first process, for all; a `.pt` file is of `dataset`."""
    path = user_path(path, "--set")

    def load() -> list[dict[str, Any]]:
        if os.path.isdir(path):
            sets = set_file.load_synthetic_sets(path)
        else:
            is_pt = path.suffix in authors_pt.SUFFIXES
            of = dataset if is_pt else None
            sets = [formats.load_synthetic_set(path, dataset=of)]
        return [_to_send(one) for one in sets]

    return [_received(fields) for fields in processes.on_first(load)]


def _to_send(synthetic: SyntheticSet) -> dict[str, Any]:
    """Returns the fields of a set without a tuple or another dataclass."""
    fields = vars(synthetic) | {"class_names": [*synthetic.class_names]}
    if synthetic.whitening is not None:
        fields["whitening"] = vars(synthetic.whitening)
    return fields


def _received(fields: dict[str, Any]) -> SyntheticSet:
    fields = fields | {"class_names": tuple(fields["class_names"])}
    if fields["whitening"] is not None:
        fields["whitening"] = Whitening(**fields["whitening"])
    return SyntheticSet(**fields)

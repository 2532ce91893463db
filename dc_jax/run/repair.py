"""The sets in the folder of a run, before they are evaluated, or after one is lost."""

from pathlib import Path

import numpy as np

from dc_jax.base import SyntheticSet
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.errors import UserError
from dc_jax.evaluation.protocol import Protocol
from dc_jax.files.content import file_record, read_json
from dc_jax.report import NEIGHBOURS
from dc_jax.run import saving
from dc_jax.sets import set_file

# They are of the images that were evaluated.
_OF_A_RESULT = ("card.json", "result.json", "report.html", NEIGHBOURS)


def hold_sets(
    config: Config,
    folder: Path,
    dataset: Dataset,
    protocol: Protocol,
    sets: list[SyntheticSet],
) -> None:
    """Writes sets that are yet to be evaluated, with their pictures.

    Where the folder holds these very images, its files stay, and with them the result
    until a new one replaces it. A result of other images is deleted.
    """
    _restore_sets(config, folder, dataset, protocol, sets)
    if _are_held(folder, sets):
        return
    for name in _OF_A_RESULT:
        (folder / name).unlink(missing_ok=True)
    saving.save_sets(config, folder, dataset, protocol, sets, [()] * len(sets))


def _restore_sets(
    config: Config,
    folder: Path,
    dataset: Dataset,
    protocol: Protocol,
    sets: list[SyntheticSet],
) -> None:
    """Writes the sets of a finished run that are lost as the run had left them.

    That is to the last bit. A lost set that was another stays lost.
    """
    card = read_json(folder / "card.json") or {}
    if card.get("config") != config.to_dict() or card.get("protocol") != vars(protocol):
        return
    for experiment, synthetic in enumerate(sets):
        name = set_file.set_name(experiment)
        path, record = folder / name, card["files"].get(name)
        if path.is_file() and file_record(path) == record:
            continue
        accuracies = card["accuracy"]["accuracies"][experiment]
        saving.save_set(config, path, dataset, synthetic, protocol, accuracies)
        if file_record(path) != record:
            path.unlink()


def _are_held(folder: Path, sets: list[SyntheticSet]) -> bool:
    """Whether the sets in a folder are these, but for their recipes."""
    try:
        held = set_file.load_synthetic_sets(folder)
    except (FileNotFoundError, UserError):
        return False
    return len(held) == len(sets) and all(map(_is_same, held, sets))


def _is_same(one: SyntheticSet, other: SyntheticSet) -> bool:
    ours, theirs = (set_file.to_arrays(x.replace(recipe=None)) for x in (one, other))
    names = ours.keys() | theirs.keys()
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[name], theirs[name]) for name in names
    )

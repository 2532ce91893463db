"""What a run leaves in its folder, and what is told of its accuracy."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from dc_jax import report
from dc_jax.base import SyntheticSet
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.data.facts import plain_name
from dc_jax.evaluation.protocol import Protocol
from dc_jax.files.content import append_json_line, write_json
from dc_jax.report.accuracy import num_networks, spread
from dc_jax.run import own_files
from dc_jax.sets import image_grid, set_file
from dc_jax.sets.card import make_card, make_recipe


def save_set(
    config: Config,
    path: Path,
    dataset: Dataset,
    synthetic: SyntheticSet,
    protocol: Protocol,
    accuracies: Sequence[float] = (),
) -> SyntheticSet:
    """Saves a set with the recipe of its run; returns it with the recipe.

    The accuracies are those of the networks that were trained on it, if there are any.
    """
    recipe = make_recipe(
        method=config.method,
        dataset=plain_name(dataset.name, config.dataset.path),
        ipc=config.ipc,
        protocol=vars(protocol),
        in_words=str(protocol),
        accuracies=accuracies,
    )
    synthetic = synthetic.replace(recipe=recipe)
    set_file.save_synthetic_set(path, synthetic)
    return synthetic


def save_sets(
    config: Config,
    folder: Path,
    dataset: Dataset,
    protocol: Protocol,
    sets: list[SyntheticSet],
    accuracies: Sequence[Sequence[float]],
) -> None:
    """Writes the set of each experiment, and its picture."""
    for experiment, synthetic in enumerate(sets):
        path = folder / set_file.set_name(experiment)
        save_set(config, path, dataset, synthetic, protocol, accuracies[experiment])
        picture = folder / own_files.picture_name(experiment)
        image_grid.save_image_grid(picture, synthetic)


def save_run(
    config: Config,
    folder: Path,
    dataset: Dataset,
    *,
    protocol: Protocol,
    sets: list[SyntheticSet],
    result: dict[str, Any],
    counts: np.ndarray | None = None,
) -> None:
    """Writes what a run leaves, and last the card.

    The result is safe once the card is there, which repeats it and the config, and has
    a record of every other file. What takes long or can be made again follows:
    `finished.add_neighbours`, `random_baseline` and the report. For the `counts` see
    `report.keep_confusion`.

    Raises:
      OSError: a file cannot be written, or the folder was deleted.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"--workdir={folder} was deleted during the run.")
    accuracies = result["accuracies"]
    save_sets(config, folder, dataset, protocol, sets, accuracies)
    report.keep_confusion(folder, counts)
    write_json(folder / "result.json", result)
    # Those that are there may be of other images.
    names = [n for n in own_files.find_results(folder) if n != report.NEIGHBOURS]
    card = make_card(
        method=config.method,
        config=config.to_dict(),
        seed=config.seed,
        dataset=dataset,
        protocol=vars(protocol),
        accuracy=result,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files={name: folder / name for name in names},
    )
    write_json(folder / "card.json", card)


def add_evaluation(folder: Path, result: dict[str, Any]) -> None:
    """Adds a line to `evaluations.jsonl` in a folder, which is made where needed."""
    folder.mkdir(parents=True, exist_ok=True)
    append_json_line(folder / "evaluations.jsonl", result)


def summarise(accuracies: np.ndarray) -> dict[str, Any]:
    """Returns mean and spread of accuracies `[E, N]`, fractions, over all networks."""
    return {
        "accuracy_mean": float(accuracies.mean()),
        "accuracy_std": float(accuracies.std()),
        "num_experiments": accuracies.shape[0],
        "num_evaluations": accuracies.shape[1],
        "accuracies": accuracies.tolist(),
    }


def log_result(result: dict[str, Any], name: str = "") -> None:
    """Logs the accuracies in a line or two, with the name of what has them."""
    of = {"Test accuracy": result}
    if "own_protocol" in result:
        of["By the training with the learned learning rates"] = result["own_protocol"]
    if "random" in result:
        of["As many random real images"] = result["random"]
    for what, one in of.items():
        num = num_networks(one)
        percent = f"{one['accuracy_mean']:.2%}{spread(one['accuracy_std'], num, 2)}"
        of_what = f"mean and standard deviation of {num} networks"
        of_what = "one network" if num == 1 else of_what
        text = "%s%s %s (%s)."
        logging.info(text, f"{name}: " if name else "", what, percent, of_what)

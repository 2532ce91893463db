"""Random real images, evaluated as a run's own: what every run is compared with.

They are further experiments of the method `random`: those after the run's own, so that
none of their keys is used by another part of the run.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dc_jax.config import Config
from dc_jax.evaluation.evaluator import accuracies
from dc_jax.files.content import write_json
from dc_jax.run import finished
from dc_jax.run.baselines import choose_sets
from dc_jax.run.evaluation import count_sets
from dc_jax.run.saving import summarise
from dc_jax.run.set_trainer import Evaluator
from dc_jax.run.setup import Setup

# In the result of a run.
FIELD = "random"
# Draws of images, at most.
_DRAWS = 5


def num_draws(config: Config) -> int:
    """Returns how many draws of random images a run evaluates, with a network each."""
    if not config.evaluation.random_baseline or config.method in ("random", "whole"):
        return 0
    return min(_DRAWS, config.num_evaluations)


def is_missing(config: Config, result: Mapping[str, Any]) -> bool:
    """Whether random images are yet to be evaluated."""
    return num_draws(config) > 0 and FIELD not in result


def evaluate_random(setup: Setup, evaluator: Evaluator, folder: Path) -> dict[str, Any]:
    """Returns the accuracies of random images `[R, 1]`, see `summarise`."""
    config, num = setup.config, num_draws(setup.config)
    random = dataclasses.replace(config, method="random", num_experiments=num)
    first = config.num_experiments
    sets, _ = choose_sets(
        dataclasses.replace(setup, config=random), folder, first=first
    )
    of = " of random images"
    counts = count_sets(config, evaluator, sets, first=first, num=1, of=of)
    return summarise(accuracies(counts))


def save(
    folder: Path, result: dict[str, Any], random: dict[str, Any]
) -> dict[str, Any]:
    """Adds the accuracies to the result of a run, which is saved; returns it."""
    result = {**result, FIELD: random}
    write_json(folder / "result.json", result)
    finished.update_card(folder, "result.json", accuracy=result)
    return result

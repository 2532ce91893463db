"""The evaluation of a run: its programs and its keys, and what is logged of it."""

import dataclasses

import numpy as np
from absl import logging

from dc_jax.base import SyntheticSet
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.devices.layout import Layout
from dc_jax.evaluation.evaluator import (
    Evaluator,
    train_by_learning_rates,
    train_by_protocol,
)
from dc_jax.evaluation.protocol import Protocol, make_protocol
from dc_jax.run.compiled import (
    compile_evaluation,
    evaluation_keys,
    own_evaluation_keys,
)
from dc_jax.run.setup import choose_evaluation_network, make_parts
from dc_jax.sets.card import training_of


def make_evaluator(config: Config, dataset: Dataset, layout: Layout) -> Evaluator:
    """Returns the evaluation of a run, see `choose_evaluation_network`.

    Raises:
      UserError: the network or the augmentation is unknown.
    """
    name = choose_evaluation_network(config)
    if name != config.network.name:
        evaluation = dataclasses.replace(config.evaluation, network=name)
        config = dataclasses.replace(config, evaluation=evaluation)
    field = "evaluation" if config.evaluation.network else "network"
    protocol = make_protocol(
        config.evaluation, dataset_name=dataset.name, network_name=config.network.name
    )
    network, execution = make_parts(config, dataset, field, layout)
    return Evaluator(
        dataset.test_images,
        dataset.test_labels,
        protocol,
        compile_evaluation(
            train_by_protocol(protocol, network, execution), network, execution
        ),
        compile_evaluation(train_by_learning_rates(network), network, execution),
        # One after another on each device. Of a call with several devices XLA on CPU
        # lets go of little before its end: 0.4 MB an epoch were seen, so it is kept
        # short.
        layout.everything.size if execution.network_loop == "map" else None,
    )


def count_sets(
    config: Config, evaluator: Evaluator, sets: list[SyntheticSet]
) -> np.ndarray:
    """Returns confusion matrices of networks trained on each set, `[E, N, C, C]`."""
    num = config.num_evaluations
    logging.info(
        "Evaluating %d set(s) with %d networks each: %s.",
        len(sets),
        num,
        evaluator.protocol,
    )
    keys = [evaluation_keys(config.seed, place, num) for place in range(len(sets))]
    return np.stack([evaluator.count(s, k) for s, k in zip(sets, keys, strict=True)])


def count_sets_own(
    config: Config, evaluator: Evaluator, sets: list[SyntheticSet]
) -> np.ndarray | None:
    """Returns what `count_sets` does, by training with the sets' own learning rates.

    None where a set has none.
    """
    if not sets or any(one.learning_rates is None for one in sets):
        return None
    num = config.num_evaluations
    keys = [own_evaluation_keys(config.seed, place, num) for place in range(len(sets))]
    return np.stack(
        [evaluator.count_own(s, k) for s, k in zip(sets, keys, strict=True)]
    )


def log_recipe(protocol: Protocol, synthetic: SyntheticSet, path: str) -> None:
    """Logs where the recipe of a set, which is from `path`, differs from a protocol."""
    ours = dataclasses.asdict(protocol)
    differing = [
        f"{name} {value}"
        for name, value in training_of(synthetic).items()
        if name in ours and value != ours[name]
    ]
    if differing:
        logging.info("The recipe of %s has %s.", path, ", ".join(differing))

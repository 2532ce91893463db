"""The evaluation of a run: its programs and its keys, and what is logged of it."""

from typing import Any

import flax.linen as nn
import numpy as np
from absl import logging

from dc_jax.base import SyntheticSet
from dc_jax.config import Config
from dc_jax.devices.backend import Execution
from dc_jax.evaluation.evaluator import (
    accuracies,
    train_by_learning_rates,
    train_by_protocol,
)
from dc_jax.evaluation.protocol import Protocol
from dc_jax.progress import Progress
from dc_jax.run.compiled import compile_evaluation, evaluation_keys, own_evaluation_keys
from dc_jax.run.saving import summarise
from dc_jax.run.set_trainer import Evaluator
from dc_jax.run.setup import Setup
from dc_jax.sets.card import training_of


def make_evaluator(setup: Setup) -> Evaluator:
    """Returns the evaluation of a run."""
    network, execution = setup.evaluation_network, setup.evaluation_execution
    images, labels = setup.dataset.test_images, setup.dataset.test_labels
    return build_evaluator(setup.protocol, network, execution, images, labels)


def build_evaluator(
    protocol: Protocol,
    network: nn.Module,
    execution: Execution,
    test_images: np.ndarray,
    test_labels: np.ndarray,
) -> Evaluator:
    """Returns the evaluation by a protocol on test images, see `Evaluator`."""
    training = train_by_protocol(protocol, network, execution)
    return Evaluator(
        test_images,
        test_labels,
        protocol,
        compile_evaluation(training, network, execution),
        compile_evaluation(train_by_learning_rates(network), network, execution),
        # One network per device in a call: how far it is can be told sooner, and XLA
        # frees little before the end of a call with several CPU devices.
        execution.layout.everything.size if execution.network_loop == "map" else None,
    )


def measure_evaluation(
    config: Config, evaluator: Evaluator, synthetic: SyntheticSet
) -> tuple[float, float]:
    """Compiles the evaluation, and returns the seconds that it will take.

    For a set, and for one network.
    """
    keys = evaluation_keys(config.seed, 0, config.num_evaluations)
    with Progress("Compiling the evaluation"):
        evaluator.compile(synthetic, keys)
    with Progress("Measuring how long the evaluation takes"):
        seconds = evaluator.measure(synthetic, keys)
    return seconds, seconds / evaluator.calls(config.num_evaluations)


def count_sets(
    config: Config,
    evaluator: Evaluator,
    sets: list[SyntheticSet],
    *,
    first: int = 0,
    num: int | None = None,
    of: str = "",
) -> np.ndarray:
    """Returns confusion matrices of networks trained on each set, `[E, N, C, C]`.

    The sets are those of the experiments from `first` on, `of` which images the log
    tells. N is `num`, or `config.num_evaluations`.
    """
    num = config.num_evaluations if num is None else num
    text = "Evaluating %d set(s)%s with %d network(s) each: %s."
    logging.info(text, len(sets), of, num, evaluator.protocol)
    places = range(first, first + len(sets))
    keys = [evaluation_keys(config.seed, place, num) for place in places]
    with Progress("Compiling the evaluation"):
        evaluator.compile(sets[0], keys[0])
    total = len(sets) * evaluator.epochs(num)
    with Progress(f"Evaluating{of}", total, unit="epochs") as progress:
        counts = [
            evaluator.count(s, k, progress) for s, k in zip(sets, keys, strict=True)
        ]
    return np.stack(counts)


def evaluate_sets(
    config: Config, evaluator: Evaluator, sets: list[SyntheticSet]
) -> tuple[dict[str, Any], np.ndarray]:
    """Returns the accuracies of sets, and confusion matrices `[E, N, C, C]`.

    The accuracies are as in `summarise`; where the sets have learning rates of their
    own, those by the training with these are in `own_protocol`.
    """
    counts = count_sets(config, evaluator, sets)
    result = summarise(accuracies(counts))
    if sets and all(one.learning_rates is not None for one in sets):
        num = config.num_evaluations
        with Progress("Evaluating by the learned learning rates"):
            own = [
                evaluator.count_own(one, own_evaluation_keys(config.seed, place, num))
                for place, one in enumerate(sets)
            ]
        result["own_protocol"] = summarise(accuracies(np.stack(own)))
    return result, counts


def log_recipe(protocol: Protocol, synthetic: SyntheticSet, path: str) -> None:
    """Logs where the recipe of a set, which is from `path`, differs from a protocol."""
    ours, theirs = vars(protocol), training_of(synthetic)
    names = [name for name in theirs if name in ours and theirs[name] != ours[name]]
    differing = [f"{name} {theirs[name]}" for name in names]
    if differing:
        logging.info("The recipe of %s has %s.", path, ", ".join(differing))


def log_whitening(config: Config, synthetic: SyntheticSet, path: str) -> None:
    """Logs where test images are not whitened as the config says: the set decides."""
    zca = config.dataset.zca
    if synthetic.whitening is not None and not zca:
        text = "%s is of whitened images: test images are whitened by its matrices."
        logging.info(text, path)
    if synthetic.whitening is None and zca:
        text = "%s is not of whitened images: test images are not whitened, though "
        text += "config.dataset.zca is True."
        logging.info(text, path)

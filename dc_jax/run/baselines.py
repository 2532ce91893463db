"""The baselines: coresets, and training on the whole training set.

`full_data_trainer` trains the networks that these need, or finds them trained.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from absl import logging
from scipy.special import softmax

from dc_jax.base import SyntheticSet, make_labels
from dc_jax.config import Config, describe_ipc
from dc_jax.data.dataset import Dataset
from dc_jax.data.store import to_inputs
from dc_jax.devices.backend import Execution
from dc_jax.errors import UserError
from dc_jax.evaluation.protocol import Protocol, make_protocol, phases
from dc_jax.methods import coresets
from dc_jax.progress import Progress
from dc_jax.run.full_data_trainer import Trained, WholeTrainer
from dc_jax.run.setup import GROUPS, Setup
from dc_jax.sets.make import make_set
from dc_jax.training.full_data import WholeTraining, make_whole_training

# Of the result of a run, `seconds_condense` among them.
Facts = dict[str, Any]
# Fields of the config that only other methods use.
_UNUSED = (
    *("iterations", "outer_loop", "inner_loop", "num_networks", "init", "distance"),
    *("batch_real", "batch_train", "lr_img", "momentum_img", "lr_net", "momentum_net"),
    *("labels", "lr_label", "sampler", "candidates"),
    *("patience", "minutes", "tensorboard"),
    *GROUPS,
)


def check_baseline(setup: Setup) -> None:
    """Checks that there are enough images, and logs what will be done.

    Raises:
      UserError: a class has fewer training images than are to be chosen, or
        `config.ipc` has not as many numbers as there are classes.
    """
    config, dataset = setup.config, setup.dataset
    logging.info("Running on %s.", setup.layout)
    if config.method == "whole":
        unused = ("ipc", "num_experiments", "coreset.epochs", "coreset.never_learned")
        unused = (*unused, "coreset.temperature")
        num = config.num_evaluations
        logging.info("Training %d network(s) on the whole training set.", num)
    else:
        unused = ("eval_every",)
        counts = np.bincount(dataset.train_labels, minlength=dataset.num_classes)
        class_ipc = config.class_ipc(dataset.num_classes)
        # The smallest of the classes that are too small is named.
        for label in np.argsort(counts, kind="stable"):
            if counts[label] < class_ipc[label]:
                raise UserError(
                    f"config.ipc must be at most {counts[label]}, the number of "
                    f"training images of class {dataset.class_names[label]}, got "
                    f"{class_ipc[label]}."
                )
        ipc, num = describe_ipc(config.ipc), config.num_experiments
        text = "Choosing %s image(s) per class by %s, %d experiment(s)."
        logging.info(text, ipc, config.method, num)
    unused = ", ".join((*_UNUSED, *unused))
    logging.info("Not used by %s: config.%s.", config.method, unused)


def choose_sets(
    setup: Setup, folder: Path, *, first: int = 0
) -> tuple[list[SyntheticSet], dict[str, float]]:
    """Chooses a coreset for each experiment of a run in a folder, from `first` on.

    Where a class has fewer images than are to be chosen, which `check_baseline`
    refuses, some are chosen again.

    Returns:
      The E sets, and other fields of the result: the seconds, training included.
    """
    config, dataset = setup.config, setup.dataset
    selection = coresets.SELECTIONS[config.method]
    is_trained = selection.needs != ("size",) or selection.has_soft_labels
    trainer = _feature_trainer(setup, folder) if is_trained else None
    class_ipc = config.class_ipc(dataset.num_classes)
    sets, seconds = [], 0.0
    for experiment in range(first, first + config.num_experiments):
        trained = None
        if trainer is not None:
            trained = trainer.train(experiment, config.num_experiments)
            seconds += trained.seconds
        began = time.monotonic()
        chosen = np.full((dataset.num_classes, max(class_ipc)), -1, np.int32)
        title = f"Choosing images, experiment {experiment + 1}"
        with Progress(title, len(class_ipc), unit="classes") as progress:
            for label, num in enumerate(class_ipc):
                members = np.flatnonzero(dataset.train_labels == label)
                rng = np.random.default_rng([config.seed, experiment, label])
                known = _learn(config, trainer, trained, members, label)
                places = np.resize(selection.select(*known, num, rng), num)
                chosen[label, :num] = members[places]
                progress.advance()
        sets.append(make_coreset(chosen, dataset))
        if selection.has_soft_labels:
            sets[-1] = _with_soft_labels(config, sets[-1], trainer, trained)
        seconds += time.monotonic() - began
    return sets, {"seconds_condense": seconds}


def make_coreset(indices: np.ndarray, dataset: Dataset) -> SyntheticSet:
    """Returns the training images of indices `[C, I]` as a set; -1 is a blank slot."""
    is_image = indices >= 0
    pixels = dataset.train_images[indices]
    images = to_inputs(pixels, dataset.mean, dataset.std, dataset.whitening)
    images = np.where(is_image[..., None, None, None], images, 0)
    labels = make_labels(is_image.sum(axis=1))
    return make_set(images, dataset, labels).replace(indices=indices)


def label_sets(
    setup: Setup, folder: Path, make: Callable[[], tuple[list[SyntheticSet], Facts]]
) -> tuple[list[SyntheticSet], Facts]:
    """Labels the sets that `make` makes: by a network for each experiment."""
    sets, facts = make()
    trainer = _feature_trainer(setup, folder)
    for experiment, synthetic in enumerate(sets):
        trained = trainer.train(experiment, len(sets))
        arguments = (setup.config, synthetic, trainer, trained)
        sets[experiment] = _with_soft_labels(*arguments)
        facts["seconds_condense"] += trained.seconds
    return sets, facts


def _with_soft_labels(
    config: Config, synthetic: SyntheticSet, trainer: WholeTrainer, trained: Trained
) -> SyntheticSet:
    """Returns a set with what a network thinks of its images as labels."""
    is_image = synthetic.labels >= 0
    logits = trainer.read_logits(trained, synthetic.images[is_image])
    soft_labels = np.zeros((*is_image.shape, len(is_image)), np.float32)
    temperature = config.coreset.temperature or 1.0
    soft_labels[is_image] = coresets.soft_labels(logits, temperature)
    return synthetic.replace(soft_labels=soft_labels)


def _learn(
    config: Config,
    trainer: WholeTrainer | None,
    trained: Trained | None,
    members: np.ndarray,
    label: int,
) -> list[Any]:
    """Returns what the method needs to know about the images `[n]` of a class.

    The trainer and its network are None if the method needs no network.
    """
    known: dict[str, Any] = {"size": len(members)}
    needs = coresets.SELECTIONS[config.method].needs
    if "events" in needs:
        known["events"] = coresets.forgetting_events(
            np.asarray(trained.state.forgotten)[members],
            np.asarray(trained.state.is_learned)[members],
            never_learned=config.coreset.never_learned,
            epochs=trainer.epochs,
        )
    if "features" in needs:
        known["features"], logits = trainer.read_class(trained, label)
        known["residuals"] = softmax(logits.astype(np.float64), axis=1)
        known["residuals"][:, label] -= 1
    return [known[name] for name in needs]


def whole_accuracies(setup: Setup, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Trains networks on the whole training set, and tests them.

    Returns:
      Their accuracies, fractions, `[1, N]`, and other fields of the result.
    """
    config, dataset, protocol = setup.config, setup.dataset, setup.protocol
    network, execution = setup.evaluation_network, setup.evaluation_execution
    training = train_by_phases(protocol, network, execution, dataset)
    arguments = (config, folder, dataset, execution, protocol, training)
    trainer = WholeTrainer(*arguments, eval_every=config.eval_every)
    return train_and_test(trainer, config.num_evaluations)


def train_by_phases(
    protocol: Protocol, network: nn.Module, execution: Execution, dataset: Dataset
) -> WholeTraining:
    """Returns the training of a network on the whole training set by a protocol."""
    devices = execution.layout.everything
    recipes = [
        (dataclasses.replace(recipe, devices=devices), epochs)
        for recipe, epochs in phases(protocol, network, execution)
    ]
    return make_whole_training(recipes, dataset.image_shape, len(dataset.train_labels))


def train_and_test(
    trainer: WholeTrainer, num: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Trains `num` networks and tests them. Returns the same as `whole_accuracies`."""
    accuracies, on_the_way, seconds = [], [], 0.0
    for number in range(num):
        trained = trainer.train(number, num)
        began = time.monotonic()
        with Progress(f"Testing network {number + 1} of {num}"):
            accuracies.append(trainer.test(trained.state))
        on_the_way.append(trained.accuracies)
        seconds += trained.seconds + time.monotonic() - began
    num_images = len(trainer.dataset.train_labels)
    facts = {"training_images": num_images, "seconds": round(seconds, 3)}
    if trainer.eval_every:
        facts["accuracies_on_the_way"] = on_the_way
    return np.array([accuracies]), facts


def _feature_trainer(setup: Setup, folder: Path) -> WholeTrainer:
    """Returns the trainer of the networks that coresets need.

    Its protocol is that of evaluation, but with `config.coreset.epochs` epochs.
    """
    config, dataset = setup.config, setup.dataset
    protocol = make_protocol(
        dataclasses.replace(config.evaluation, network=None),
        dataset_name=dataset.name,
        network_name=config.network.name,
    )
    # A protocol runs one epoch more than it says.
    protocol = dataclasses.replace(protocol, epochs=config.coreset.epochs - 1)
    logging.info("Features: %s.", protocol)
    execution = setup.execution
    training = train_by_phases(protocol, setup.network, execution, dataset)
    return WholeTrainer(config, folder, dataset, execution, protocol, training)

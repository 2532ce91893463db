"""The host's side of the baselines: coresets, and training on the whole training set.

Networks trained on the whole training set are kept, so that a run that is stopped, or
another that needs the same ones, does not train them again.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import PartitionSpec as P
from scipy.special import softmax

from dc_jax import coresets, hosts, workdir
from dc_jax.checkpoint import Checkpointer
from dc_jax.config import Config
from dc_jax.data import Dataset, normalise
from dc_jax.evaluate import Protocol, make_protocol, phases
from dc_jax.execution import compiler_options
from dc_jax.parallel import Layout
from dc_jax.parts import make_parts
from dc_jax.progress import Stopped, StopSignals, progress_bar, signals_kill
from dc_jax.train import accuracy, init_state
from dc_jax.whole_set import WholeState, init_whole, read_images, train_whole

# Batches that are computed at most before a signal is noticed.
_BATCHES_AHEAD = 8
# Images that are read at once.
_READ_AT_ONCE = 512

_UNUSED = (
    *("iterations", "outer_loop", "inner_loop", "num_networks", "init", "distance"),
    *("batch_real", "batch_train", "lr_img", "momentum_img", "lr_net", "momentum_net"),
    "eval_every",
)


def check_baseline(config: Config, dataset: Dataset, layout: Layout) -> None:
    """Checks that there are enough images, and logs what will be done.

    Raises:
      ValueError: a class has fewer training images than `config.ipc`.
    """
    logging.info("Running on %s.", layout)
    unused = _UNUSED
    if config.method == "whole":
        unused += ("ipc", "num_experiments", "coreset.epochs", "coreset.never_learned")
        logging.info(
            "Training %d network(s) on the whole training set.", config.num_evaluations
        )
    else:
        counts = np.bincount(dataset.train_labels, minlength=dataset.num_classes)
        smallest = int(counts.argmin())
        if counts[smallest] < config.ipc:
            raise ValueError(
                f"config.ipc must be at most {counts[smallest]}, the number of "
                f"training images of class {dataset.class_names[smallest]}, got "
                f"{config.ipc}."
            )
        logging.info(
            "Choosing %d image(s) a class by %s, %d experiment(s).",
            *(config.ipc, config.method, config.num_experiments),
        )
    logging.info("Not used by %s: config.%s.", config.method, ", ".join(unused))


def select(
    config: Config,
    folder: Path,
    dataset: Dataset,
    layout: Layout,
    keys: Sequence[jax.Array],
) -> tuple[np.ndarray, float]:
    """Chooses coresets.

    Args:
      config: the run.
      folder: of the run.
      dataset: to choose from.
      layout: the devices.
      keys: of the network of each experiment.

    Returns:
      The indices of the images in the training split, `[E, C, I]` int32, and the
      seconds it took, training included.
    """
    selection = coresets.SELECTIONS[config.method]
    is_trained = selection.needs != ("size",)
    trainer = _feature_trainer(config, folder, dataset, layout) if is_trained else None
    labels = dataset.train_labels
    classes = [np.flatnonzero(labels == c) for c in range(dataset.num_classes)]
    chosen, seconds = [], 0.0
    for experiment, key in enumerate(keys):
        state, spent = None, 0.0
        if trainer is not None:
            state, spent = trainer.train(experiment, key, len(keys))
        began = time.monotonic()
        with signals_kill():
            for label, members in enumerate(classes):
                rng = np.random.default_rng([config.seed, experiment, label])
                known = _learn(config, trainer, state, members, label)
                arguments = (known[name] for name in selection.needs)
                chosen.append(members[selection.select(*arguments, config.ipc, rng)])
        seconds += spent + time.monotonic() - began
    shape = (len(keys), dataset.num_classes, config.ipc)
    return np.array(chosen, np.int32).reshape(shape), seconds


def _learn(
    config: Config,
    trainer: "WholeTrainer | None",
    state: WholeState | None,
    members: np.ndarray,
    label: int,
) -> dict[str, Any]:
    """Returns what the method needs to know of the images of a class.

    Args:
      config: its method.
      trainer: of `state`; None where no network is needed.
      state: a trained network.
      members: indices of the images. Shape `[n]`.
      label: the class.
    """
    known: dict[str, Any] = {"size": len(members)}
    needs = coresets.SELECTIONS[config.method].needs
    if "events" in needs:
        known["events"] = coresets.forgetting_events(
            np.asarray(state.forgotten)[members],
            np.asarray(state.is_learned)[members],
            never_learned=config.coreset.never_learned,
            epochs=trainer.epochs,
        )
    if "features" in needs:
        known["features"], logits = trainer.read(state, members)
        known["residuals"] = softmax(logits.astype(np.float64), axis=1)
        known["residuals"][:, label] -= 1
    return known


def whole_accuracies(
    config: Config,
    folder: Path,
    dataset: Dataset,
    layout: Layout,
    protocol: Protocol,
    keys: jax.Array,
) -> tuple[np.ndarray, float]:
    """Trains networks on the whole training set, and tests them.

    Args:
      config: the run.
      folder: of the run.
      dataset: to train and test on.
      layout: the devices.
      protocol: how to train.
      keys: of the networks, `[N]`.

    Returns:
      Their accuracies, fractions, `[1, N]`, and the seconds it took.
    """
    field = "evaluation" if config.evaluation.network else "network"
    trainer = WholeTrainer(config, folder, dataset, layout, protocol, field)
    test = jax.jit(
        functools.partial(
            accuracy, trainer.network, slice_size=trainer.execution.slice_size
        ),
        compiler_options=compiler_options(layout),
    )
    images = normalise(dataset.test_images, dataset.mean, dataset.std)
    labels = jnp.asarray(dataset.test_labels)
    accuracies, seconds = [], 0.0
    for number, key in enumerate(keys):
        state, spent = trainer.train(number, key, len(keys))
        began = time.monotonic()
        variables = jax.tree.map(np.asarray, state.network.variables)
        accuracies.append(float(test(variables, images, labels)))
        seconds += spent + time.monotonic() - began
    return np.array([accuracies]), seconds


class WholeTrainer:
    """Trains networks on the whole training set, and keeps them.

    Attributes:
      network: the module.
      execution: how it is run.
      dataset: the training set.
      epochs: of the training.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        dataset: Dataset,
        layout: Layout,
        protocol: Protocol,
        field: str,
    ):
        """Makes one for the networks of `network` or `evaluation`, see `make_parts`."""
        self.network, self.execution = make_parts(config, dataset, field, layout)
        self.dataset, self.epochs = dataset, protocol.epochs + 1
        self._config, self._layout = config, layout
        self._batch_size = protocol.batch_size
        self._num_batches = -(-len(dataset.train_labels) // protocol.batch_size)
        self._made_with = {
            "seed": config.seed,
            "dataset": dataset.checksum(),
            "protocol": dataclasses.asdict(protocol),
        }
        text = json.dumps(self._made_with, sort_keys=True)
        networks = Path(config.coreset.networks or folder / "networks")
        self._folder = networks / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._phases = [
            (dataclasses.replace(recipe, devices=layout.everything), epochs)
            for recipe, epochs in phases(protocol, self.network, self.execution)
        ]
        self._steps = [
            self.compile(functools.partial(train_whole, recipe))
            for recipe, _ in self._phases
        ]
        self._read = self.compile(self._read_part)

    def compile(self, function: Any) -> Any:
        """Returns a function that runs on all devices, with the same on each."""

        def positional(keywords: dict[str, Any], *args: Any) -> Any:
            return function(*args, **keywords)

        run = jax.jit(
            self._layout.spread(positional, P()),
            compiler_options=compiler_options(self._layout),
        )
        return lambda *args, **keywords: run(keywords, *args)

    def _read_part(self, variables: Any, images: jax.Array) -> Any:
        return read_images(
            self.network,
            variables,
            normalise(images, self.dataset.mean, self.dataset.std),
            slice_size=self.execution.slice_size,
            devices=self._layout.everything,
        )

    def read(
        self, state: WholeState, indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns features and logits of training images, see `read_images`."""
        variables, chunks = state.network.variables, []
        for start in range(0, len(indices), _READ_AT_ONCE):
            part = indices[start : start + _READ_AT_ONCE]
            # Padded, so that one program reads all.
            padded = np.pad(part, (0, _READ_AT_ONCE - len(part)), mode="edge")
            images = self._layout.put(self.dataset.train_images[padded])
            outputs = self._read(variables, images)
            chunks.append([np.asarray(output)[: len(part)] for output in outputs])
        features, logits = map(np.concatenate, zip(*chunks, strict=True))
        return features, logits

    def train(self, number: int, key: jax.Array, of: int) -> tuple[WholeState, float]:
        """Trains a network, or goes on with it, or finds it trained.

        Args:
          number: of the network, among those that are trained in this way.
          key: consumed.
          of: how many there will be.

        Returns:
          The trained network, and the seconds it took.

        Raises:
          Stopped: by a signal; the state is saved.
          FloatingPointError: the network is not finite.
          ValueError: another process trains it.
        """
        init_key, train_key = jax.random.split(key)
        recipe, _ = self._phases[0]
        state = init_whole(
            recipe, init_key, self.dataset.image_shape, len(self.dataset.train_labels)
        )
        folder = self._folder / str(number)
        checkpointer = Checkpointer(folder / "checkpoints", keep=1)
        try:
            with _in_use(folder):
                training = _Training(self._config, checkpointer, state)
                title = f"Network {number + 1} of {of}"
                self._run(training, train_key, title)
        finally:
            checkpointer.close()
        leaves = jax.tree.leaves(training.state.network.variables)
        if not all(np.isfinite(leaf).all() for leaf in map(np.asarray, leaves)):
            raise FloatingPointError(
                f"a network trained on the whole training set became NaN or infinite: "
                f"try a smaller config.evaluation.lr than {self._config.evaluation.lr:g}."
            )
        return training.state, training.seconds()

    def _run(self, training: "_Training", key: jax.Array, title: str) -> None:
        """Trains to the end."""
        total = self.epochs * self._num_batches
        if training.step == total:
            logging.info("%s is in %s.", title, self._folder)
            return
        first, order = training.step, None
        bar = progress_bar(total, first, unit="batch", title=title)
        with bar, StopSignals() as signals:
            for step in range(first, total):
                epoch, batch = divmod(step, self._num_batches)
                epoch_key = jax.random.fold_in(key, epoch)
                if order is None or batch == 0:
                    order = self._order(epoch_key)
                self._update(training, epoch, batch, order, epoch_key)
                is_waited = step % _BATCHES_AHEAD == 0
                if is_waited and not signals.wait(training.state.network.step):
                    training.save(self._made_with)
                    raise Stopped(signals.number, training.step)
                bar.update()
                if batch == self._num_batches - 1:
                    right = np.asarray(training.state.was_right).mean()
                    bar.set_postfix(right=f"{right:.4f}", refresh=False)
                    training.save_in_time(self._made_with)
        training.save(self._made_with)

    def _order(self, key: jax.Array) -> np.ndarray:
        """Returns the order of the images in an epoch. Shape `[n]`."""
        seed = np.asarray(jax.random.key_data(key)).tolist()
        return np.random.default_rng(seed).permutation(len(self.dataset.train_labels))

    def _update(
        self,
        training: "_Training",
        epoch: int,
        batch: int,
        order: np.ndarray,
        key: jax.Array,
    ) -> None:
        """Trains with one batch of an epoch."""
        before = self._phases[0][1]
        phase = int(epoch >= before)
        if epoch == before and batch == 0:  # The optimiser is made anew.
            recipe, _ = self._phases[phase]
            variables = training.state.network.variables
            training.state = training.state.replace(
                network=init_state(recipe, variables)
            )
        indices = order[batch * self._batch_size : (batch + 1) * self._batch_size]
        training.state = self._steps[phase](
            training.state,
            self._layout.put(self.dataset.train_images[indices]),
            self._layout.put(self.dataset.train_labels[indices]),
            self._layout.put(indices.astype(np.int32)),
            mean=self.dataset.mean,
            std=self.dataset.std,
            key=key,
        )
        training.step += 1


class _Training:
    """The state of a training, from its last checkpoint.

    Attributes:
      state: the last.
      step: batches so far.
    """

    def __init__(self, config: Config, checkpointer: Checkpointer, state: WholeState):
        self._config, self._checkpointer = config, checkpointer
        restored = checkpointer.restore(state)
        self.state = state if restored is None else restored.state
        self.step = 0 if restored is None else restored.step
        before = 0.0 if restored is None else restored.meta["seconds"]
        self._began, self._saved = time.monotonic() - before, time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def save_in_time(self, made_with: dict[str, Any]) -> None:
        """Saves where `config.checkpoint_minutes` have passed."""
        if time.monotonic() - self._saved >= 60 * self._config.checkpoint_minutes:
            self.save(made_with)

    def save(self, made_with: dict[str, Any]) -> None:
        meta = {"seconds": self.seconds(), "made_with": made_with}
        self._checkpointer.save(self.step, self.state, meta)
        hosts.on_first(self._checkpointer.wait)
        self._saved = time.monotonic()


def _feature_trainer(
    config: Config, folder: Path, dataset: Dataset, layout: Layout
) -> WholeTrainer:
    """Returns what trains the networks of features and forgetting events.

    The protocol is that of evaluation, but with `config.coreset.epochs` in all.
    """
    protocol = make_protocol(
        dataclasses.replace(config.evaluation, network=None),
        dataset_name=dataset.name,
        network_name=config.network.name,
    )
    # A protocol counts one less than are run.
    protocol = dataclasses.replace(protocol, epochs=config.coreset.epochs - 1)
    logging.info("Features: %s.", protocol)
    return WholeTrainer(config, folder, dataset, layout, protocol, "network")


@contextlib.contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Keeps other processes out of the folder of a network."""
    with contextlib.ExitStack() as stack:
        locked = workdir.locked(folder, "config.coreset.networks")
        hosts.on_first(lambda: stack.enter_context(locked))
        yield

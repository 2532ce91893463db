"""Trains networks on the whole training set, and keeps them and their features.

Each network has a folder with its checkpoint. The name of the folder above it tells
what the networks in it were made with. So a run that was stopped finds them, and so
does another run that needs the same networks.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.data.store import to_inputs
from dc_jax.devices import processes
from dc_jax.devices.backend import Execution
from dc_jax.errors import UserError
from dc_jax.evaluation.protocol import Protocol
from dc_jax.files.content import read_npz, write_npz
from dc_jax.files.paths import user_path
from dc_jax.progress import Progress
from dc_jax.run import workdir
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.run.compiled import compile_everywhere
from dc_jax.run.kept_training import KeptTraining, made_with
from dc_jax.run.signals import Stopped, StopSignals, ends_at_once
from dc_jax.training.full_data import WholeState, WholeTraining

# How many batches are dispatched at most before a signal is noticed.
_BATCHES_AHEAD = 8
# How many images are read at once.
_READ_AT_ONCE = 512
# Folded into the seed for these networks; experiments have the numbers below.
_STREAM = 2**31


class Trained(NamedTuple):
    """A trained network."""

    number: int  # See `WholeTrainer.train`.
    state: WholeState
    seconds: float  # How long the training took.
    accuracies: list[Any]  # On the test split, every `eval_every` epochs.


class EpochHook(NamedTuple):
    """What is made of a network while it is trained."""

    made_with: dict[str, Any]  # That it depends on besides the network.
    # (folder of the network, epochs so far, state), before the first epoch and after
    # each. A training that goes on from a checkpoint may call it once more.
    call: Callable[[Path, int, WholeState], None]


def check_finite(
    state: WholeState, protocol: Protocol, field: str = "config.evaluation.lr"
) -> None:
    """Raises a `FloatingPointError` if a network that was trained is not finite.

    The field of the config has its learning rate.
    """
    leaves = jax.tree.leaves(state.network.variables)
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves):
        raise FloatingPointError(
            f"{protocol.network}, trained on the whole training set, became NaN or "
            f"infinite: try a smaller {field} than {protocol.lr:g}."
        )


class WholeTrainer:
    """Trains networks on the whole training set of a run, and keeps them.

    It tests them on the way every `eval_every` epochs, if that is not 0. `check` raises
    a `FloatingPointError` where a trained network is of no use.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        dataset: Dataset,
        execution: Execution,
        protocol: Protocol,
        training: WholeTraining,
        *,
        eval_every: int = 0,
        check: Callable[[WholeState, Protocol], None] = check_finite,
        hook: EpochHook | None = None,
    ):
        self.dataset, self.epochs = dataset, protocol.epochs + 1
        self.eval_every = eval_every
        self._config, self._protocol = config, protocol
        self._layout = execution.layout
        self._whitening = self._put(dataset.whitening)
        self._num_batches = -(-len(dataset.train_labels) // protocol.batch_size)
        self._made_with = made_with(config, dataset, protocol, eval_every)
        self._made_with |= hook.made_with if hook else {}
        text = json.dumps(self._made_with, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        given = config.coreset.networks
        kept = user_path(given, "config.coreset.networks") if given else None
        self._folder = (kept or folder / "networks") / name
        self._name = "config.coreset.networks" if kept else "--workdir"
        self._training, self._check, self._hook = training, check, hook
        # Of which phases, for how many images, the updates are compiled.
        self._compiled: set[tuple[int, int]] = set()
        self._updates = [
            compile_everywhere(phase.update, execution) for phase in training.phases
        ]
        self._read = compile_everywhere(training.read, execution)
        self._test = compile_everywhere(training.test, execution)

    def test(self, state: WholeState) -> Any:
        """Returns the test accuracy of a network, a fraction."""
        images = self._inputs(self.dataset.test_images)
        labels = self._put(self.dataset.test_labels)
        return np.asarray(self._test(state, images, labels)).tolist()

    def read_class(self, trained: Trained, label: int) -> list[np.ndarray]:
        """Returns features and logits of the training images of a class.

        They are kept beside the network if other runs may want them. Several hosts do
        not keep them, since their folders may differ.
        """
        indices = np.flatnonzero(self.dataset.train_labels == label)
        if not self._config.coreset.networks or processes.are_several():
            return self._read_images(trained.state, indices)
        path = self.folder(trained.number) / f"features_{label}.npz"
        names = ("features", "logits")
        if path.exists():
            try:
                arrays = read_npz(path, names)
                return [arrays[name] for name in names]
            except UserError as error:
                logging.warning("%s It is made again.", error)
        made = self._read_images(trained.state, indices)
        write_npz(path, dict(zip(names, made, strict=True)))
        return made

    def read_logits(self, trained: Trained, images: np.ndarray) -> np.ndarray:
        """Returns the logits `[n, C]` of inputs of the network, `[n, H, W, D]`."""

        def load(places: np.ndarray) -> jax.Array:
            return self._put(images[places])

        return self._read_in_chunks(trained.state, len(images), load)[1]

    def train(self, number: int, total: int) -> Trained:
        """Trains network `number` of `total`, or continues, or finds it trained.

        Networks of other numbers are independent of it.

        Raises:
          Stopped: by a signal; the state is saved.
          FloatingPointError: the network is not finite.
        """
        stream = jax.random.fold_in(jax.random.key(self._config.seed), _STREAM)
        init_key, train_key = jax.random.split(jax.random.fold_in(stream, number))
        title = f"Network {number + 1} of {total}"
        with Progress(f"Making n{title[1:]}"):
            state = self._put(self._training.init(init_key))
        folder = self.folder(number)
        with workdir.locked(folder, waits=True, name=self._name):
            checkpointer = Checkpointer(folder / "checkpoints", keep=1)
            progress = KeptTraining(checkpointer, state, self._made_with)
            if self._hook and progress.step == 0:
                self._hook.call(folder, 0, progress.state)
            self._run(progress, train_key, title, folder)
        self._check(progress.state, self._protocol)
        return Trained(number, progress.state, progress.seconds(), progress.accuracies)

    def folder(self, number: int) -> Path:
        """Returns the folder of a network."""
        return self._folder / str(number)

    def _put(self, tree: Any) -> Any:
        """Puts arrays whole on every device."""
        return jax.tree.map(lambda leaf: self._layout.put(np.asarray(leaf)), tree)

    def _inputs(self, images: np.ndarray) -> jax.Array:
        how = (self.dataset.mean, self.dataset.std, self._whitening)
        return to_inputs(self._put(images), *how)

    def _read_images(self, state: WholeState, indices: np.ndarray) -> list[np.ndarray]:
        def load(places: np.ndarray) -> jax.Array:
            return self._inputs(self.dataset.train_images[indices[places]])

        return self._read_in_chunks(state, len(indices), load)

    def _read_in_chunks(
        self, state: WholeState, num: int, load: Callable[[np.ndarray], jax.Array]
    ) -> list[np.ndarray]:
        """Returns features and logits of `num` images, which `load` gives by places."""
        chunks = []
        for start in range(0, num, _READ_AT_ONCE):
            places = np.arange(start, min(start + _READ_AT_ONCE, num))
            # Padded, so that one program reads all.
            padded = np.pad(places, (0, _READ_AT_ONCE - len(places)), mode="edge")
            outputs = self._read(state, load(padded))
            chunks.append([np.asarray(output)[: len(places)] for output in outputs])
        return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]

    def _run(
        self, progress: KeptTraining, key: jax.Array, title: str, folder: Path
    ) -> None:
        """Trains to the end."""
        total = self.epochs * self._num_batches
        if progress.step == total:
            logging.info("%s is in %s.", title, self._folder)
            return
        order = None
        bar = Progress(title, total, first=progress.step, unit="batches", stays=True)
        with bar, StopSignals() as signals:
            for step in range(progress.step, total):
                epoch, batch = divmod(step, self._num_batches)
                epoch_key = jax.random.fold_in(key, epoch)
                if order is None or batch == 0:
                    order = self._order(epoch_key)
                self._update(progress, order, epoch_key, bar)
                is_last = batch == self._num_batches - 1
                if is_last and self.eval_every and (epoch + 1) % self.eval_every == 0:
                    progress.accuracies.append(self.test(progress.state))
                if is_last and self._hook:  # Before a signal may end the training.
                    self._hook.call(folder, epoch + 1, progress.state)
                is_waited = is_last or step % _BATCHES_AHEAD == 0
                if is_waited and not signals.wait(progress.state.network.step):
                    progress.save()
                    raise Stopped(signals.number, progress.step, "batch")
                bar.advance()
                if is_last:
                    right = np.asarray(progress.state.was_right).mean()
                    bar.advance(0, note=f"right {right:.4f}")
                    progress.save(self._config.checkpoint_minutes)
        progress.save()

    def _order(self, key: jax.Array) -> np.ndarray:
        """Returns the order of the images in an epoch. Shape `[n]`."""
        seed = np.asarray(jax.random.key_data(key)).tolist()
        return np.random.default_rng(seed).permutation(len(self.dataset.train_labels))

    def _update(
        self, progress: KeptTraining, order: np.ndarray, key: jax.Array, bar: Progress
    ) -> None:
        """Trains with the next batch of an epoch, whose images have this order."""
        phases = self._training.phases
        ends = np.cumsum([phase.epochs for phase in phases]) * self._num_batches
        place = int(np.searchsorted(ends, progress.step, side="right"))
        if place > 0 and progress.step == ends[place - 1]:
            progress.state = self._put(phases[place].start(progress.state))
        size, batch = self._protocol.batch_size, progress.step % self._num_batches
        indices = order[batch * size : (batch + 1) * size]
        arguments = (
            progress.state,
            self._inputs(self.dataset.train_images[indices]),
            self._put(self.dataset.train_labels[indices]),
            self._put(indices.astype(np.int32)),
            key,
        )
        program = (place, len(indices))  # The last batch of an epoch may be smaller.
        if program not in self._compiled:
            self._compiled.add(program)
            self._compile(place, arguments, progress)
            bar.restart()
        progress.state = self._updates[place](*arguments)
        progress.step += 1

    def _compile(self, place: int, arguments: Any, progress: KeptTraining) -> None:
        """Compiles the updates of a phase ahead, which a signal may end."""
        if progress.step > 0:
            progress.save()
        saved = f"The network is saved after {progress.step} batches."
        saved += " The same command continues."
        with ends_at_once(lambda: saved), Progress("Compiling the training"):
            self._updates[place].lower(*arguments).compile()

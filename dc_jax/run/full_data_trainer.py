"""The host's side of training networks on the whole training set.

Trained networks are kept in a folder, where a run that was stopped, or another that
needs the same ones, finds them.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.data.store import normalise
from dc_jax.devices import processes
from dc_jax.devices.backend import batched
from dc_jax.devices.layout import Layout
from dc_jax.evaluation.protocol import Protocol, phases
from dc_jax.files import read_npz, write_npz
from dc_jax.networks import split_names
from dc_jax.run import workdir
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.run.compiled import compile_everywhere
from dc_jax.run.metrics import progress_bar
from dc_jax.run.setup import make_parts
from dc_jax.run.signals import Stopped, StopSignals
from dc_jax.training.full_data import WholeState, init_whole, read_images, train_whole
from dc_jax.training.train import accuracy, init_state

# Batches that are computed at most before a signal is noticed.
_BATCHES_AHEAD = 8
# Images that are read at once.
_READ_AT_ONCE = 512
# What is kept of the images of a class.
_FEATURES = ("features", "logits")
# What these networks are seeded with; experiments have the numbers below.
_STREAM = 2**31


class Trained(NamedTuple):
    """A trained network, or several of one shape that were trained side by side.

    Attributes:
      number: see `WholeTrainer.train`.
      state: the last; of several its leaves are `[names, ...]`.
      seconds: that the training took.
      accuracies: on the test split, every `eval_every` epochs; see `WholeTrainer.test`.
    """

    number: int
    state: WholeState
    seconds: float
    accuracies: list[Any]


class WholeTrainer:
    """Trains networks on the whole training set, and keeps them.

    Where `protocol.network` names several of one shape, one of each is trained at once,
    with the same batches.

    Attributes:
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
        *,
        eval_every: int = 0,
    ):
        """Makes one for a run.

        Args:
          config: the run.
          folder: of the run.
          dataset: its training set.
          layout: the devices.
          protocol: how to train.
          field: whose network: `network` or `evaluation`, see `make_parts`.
          eval_every: epochs between tests on the way; 0: none.
        """
        self._network, self._execution = make_parts(config, dataset, field, layout)
        self.dataset, self.epochs = dataset, protocol.epochs + 1
        self._config, self._layout, self._eval_every = config, layout, eval_every
        self._batch_size = protocol.batch_size
        self._num_batches = -(-len(dataset.train_labels) // protocol.batch_size)
        self._made_with = {
            "seed": config.seed,
            "dataset": dataset.checksum(),
            "protocol": dataclasses.asdict(protocol),
        }
        if eval_every:
            self._made_with["eval_every"] = eval_every
        text = json.dumps(self._made_with, sort_keys=True)
        networks = Path(config.coreset.networks or folder / "networks")
        self._folder = networks / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._phases = [
            (dataclasses.replace(recipe, devices=layout.everything), epochs)
            for recipe, epochs in phases(protocol, self._network, self._execution)
        ]
        self._names = split_names(protocol.network)
        num = len(self._names)
        self._members = np.arange(num) if num > 1 else None
        self._steps = [
            compile_everywhere(
                self._of_each(functools.partial(train_whole, recipe)), layout
            )
            for recipe, _ in self._phases
        ]
        slice_size = self._execution.slice_size
        read = functools.partial(
            read_images,
            self._network,
            slice_size=slice_size,
            devices=layout.everything,
        )
        test = functools.partial(accuracy, self._network, slice_size=slice_size)
        self._read = compile_everywhere(read, layout)
        self._test = compile_everywhere(self._of_each(test), layout)

    def _of_each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Runs a function for each network, which its first argument belongs to."""
        if self._members is None:
            return function

        def run(networks: Any, *args: Any) -> Any:
            def each(network: Any) -> Any:
                return function(network, *args)

            return batched(each, self._execution.network_loop)(networks)

        return run

    def _put(self, tree: Any) -> Any:
        """Puts arrays whole on every device."""
        return jax.tree.map(lambda leaf: self._layout.put(np.asarray(leaf)), tree)

    def _normalised(self, images: np.ndarray) -> jax.Array:
        """Puts images of the dataset on the devices."""
        return normalise(self._put(images), self.dataset.mean, self.dataset.std)

    def test(self, state: WholeState) -> Any:
        """Returns the test accuracy of a network, a fraction; of several a list."""
        accuracies = self._test(
            state.network.variables,
            self._normalised(self.dataset.test_images),
            self._put(self.dataset.test_labels),
        )
        return np.asarray(accuracies).tolist()

    def read_class(self, trained: Trained, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns features and logits of the training images of a class.

        See `read_images`. Where other runs may want them they are kept beside the
        network, but not by several hosts, whose folders may differ.
        """
        indices = np.flatnonzero(self.dataset.train_labels == label)
        if not self._config.coreset.networks or processes.are_several():
            return self._read_images(trained.state, indices)
        path = self._folder / str(trained.number) / f"features_{label}.npz"
        if path.exists():
            try:
                arrays = read_npz(path, _FEATURES)
                return tuple(arrays[name] for name in _FEATURES)
            except ValueError as error:
                logging.warning("%s It is made again.", error)
        outputs = self._read_images(trained.state, indices)
        write_npz(path, dict(zip(_FEATURES, outputs, strict=True)))
        return outputs

    def _read_images(
        self, state: WholeState, indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        variables, chunks = state.network.variables, []
        for start in range(0, len(indices), _READ_AT_ONCE):
            part = indices[start : start + _READ_AT_ONCE]
            # Padded, so that one program reads all.
            padded = np.pad(part, (0, _READ_AT_ONCE - len(part)), mode="edge")
            outputs = self._read(
                variables, self._normalised(self.dataset.train_images[padded])
            )
            chunks.append([np.asarray(output)[: len(part)] for output in outputs])
        features, logits = map(np.concatenate, zip(*chunks, strict=True))
        return features, logits

    def train(self, number: int, total: int) -> Trained:
        """Trains a network, or goes on with it, or finds it trained.

        Args:
          number: of the network; those of other numbers are independent of it.
          total: how many networks there will be.

        Raises:
          Stopped: by a signal; the state is saved.
          FloatingPointError: the network is not finite.
        """
        stream = jax.random.fold_in(jax.random.key(self._config.seed), _STREAM)
        init_key, train_key = jax.random.split(jax.random.fold_in(stream, number))
        recipe, _ = self._phases[0]
        init = functools.partial(
            init_whole,
            *(recipe, init_key, self.dataset.image_shape),
            len(self.dataset.train_labels),
        )
        state = init() if self._members is None else jax.vmap(init)(self._members)
        folder = self._folder / str(number)
        with _in_use(folder):
            checkpointer = Checkpointer(folder / "checkpoints", keep=1)
            training = _Training(self._config, checkpointer, self._put(state))
            title = f"Network {number + 1} of {total}"
            self._run(training, train_key, title)
        self._check_finite(training.state)
        seconds = training.seconds()
        return Trained(number, training.state, seconds, training.accuracies)

    def _check_finite(self, state: WholeState) -> None:
        """Checks the networks; some of several may fail, and classify by chance."""
        leaves = map(np.asarray, jax.tree.leaves(state.network.variables))
        num = len(self._names)
        # [names, leaves]
        finite = np.stack(
            [np.isfinite(leaf.reshape(num, -1)).all(axis=1) for leaf in leaves], axis=1
        )
        failed = [
            n for n, is_ok in zip(self._names, finite.all(1), strict=True) if not is_ok
        ]
        text = (
            f"{', '.join(failed)}, trained on the whole training set, became NaN or "
            "infinite: try a smaller config.evaluation.lr than "
            f"{self._config.evaluation.lr:g}."
        )
        if len(failed) == num:
            raise FloatingPointError(text)
        if failed:
            logging.warning("%s", text)

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
                is_last = batch == self._num_batches - 1
                if is_last and self._eval_every and (epoch + 1) % self._eval_every == 0:
                    training.accuracies.append(self.test(training.state))
                is_waited = is_last or step % _BATCHES_AHEAD == 0
                if is_waited and not signals.wait(training.state.network.step):
                    training.save(self._made_with)
                    raise Stopped(signals.number, training.step)
                bar.update()
                if is_last:
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
            anew = self._of_each(functools.partial(init_state, recipe))
            network = anew(training.state.network.variables)
            training.state = training.state.replace(network=self._put(network))
        indices = order[batch * self._batch_size : (batch + 1) * self._batch_size]
        training.state = self._steps[phase](
            training.state,
            self._normalised(self.dataset.train_images[indices]),
            self._put(self.dataset.train_labels[indices]),
            self._put(indices.astype(np.int32)),
            key,
        )
        training.step += 1


class _Training:
    """A training, from its last checkpoint.

    Attributes:
      state: the last.
      step: batches so far.
      accuracies: on the test split, so far; see `WholeTrainer.test`.
    """

    def __init__(self, config: Config, checkpointer: Checkpointer, state: WholeState):
        self._config, self._checkpointer = config, checkpointer
        restored = checkpointer.restore(state)
        self.state = state if restored is None else restored.state
        self.step = 0 if restored is None else restored.step
        meta = {} if restored is None else restored.meta
        self.accuracies: list[Any] = meta.get("accuracies", [])
        before = meta.get("seconds", 0.0)
        self._began, self._saved = time.monotonic() - before, time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def save_in_time(self, made_with: dict[str, Any]) -> None:
        """Saves where `config.checkpoint_minutes` have passed."""
        if time.monotonic() - self._saved >= 60 * self._config.checkpoint_minutes:
            self.save(made_with)

    def save(self, made_with: dict[str, Any]) -> None:
        meta = {
            "seconds": self.seconds(),
            "accuracies": self.accuracies,
            "made_with": made_with,
        }
        self._checkpointer.save(self.step, self.state, meta)
        processes.on_first(lambda: None)  # The others wait until it is written.
        self._saved = time.monotonic()


@contextlib.contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Waits for other processes that train this network, and keeps them out."""
    with contextlib.ExitStack() as stack:
        locked = workdir.locked(folder, waits=True)
        processes.on_first(lambda: stack.enter_context(locked))
        yield

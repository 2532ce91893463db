"""Trains one network on one task after another."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dc_jax.base import SyntheticSet, flatten_set
from dc_jax.data.dataset import Dataset
from dc_jax.data.store import to_inputs
from dc_jax.devices.layout import make_layout
from dc_jax.evaluation.protocol import sgd
from dc_jax.progress import Progress
from dc_jax.run.compiled import compile_everywhere
from dc_jax.run.setup import make_parts
from dc_jax.run.signals import Stopped, StopSignals
from dc_jax.sets.make import decode_set
from dc_jax.training.accuracy import accuracy
from dc_jax.training.train import Recipe, init_state
from experiments.continual_learning.config import ContinualConfig
from experiments.continual_learning.incremental import (
    draw_batches,
    draw_per_class,
    train_distilled,
    train_plain,
)
from experiments.continual_learning.tasks import Task

# A signal is noticed after at most this many batches.
_BATCHES_AHEAD = 8
_FINE_TUNING_LR = 0.1  # Times the learning rate of the training.
Images = tuple[np.ndarray, np.ndarray]  # [n, H, W, D] and labels [n]
Variables = dict[str, Any]


class Learner:
    """Trains a network on the tasks, and tests it.

    Attributes:
      tasks: in their order.
    """

    def __init__(self, config: ContinualConfig, dataset: Dataset, tasks: list[Task]):
        """Makes the programs.

        Args:
          config: of the run.
          dataset: has the classes and image shape of all tasks.
          tasks: in their order.

        Raises:
          UserError: the network does not fit the images.
        """
        self._config, self.tasks, self._dataset = config, tasks, dataset
        condense = config.condensing(dataset.name)
        layout = make_layout(condense, dataset.num_classes)
        self._layout = layout
        self._network, execution = make_parts(condense, dataset, "network", layout)
        training = config.training
        self._recipes = [
            Recipe(
                network=self._network,
                optimiser=sgd(lr, training.momentum, training.weight_decay),
                batch_size=training.batch_size,
                slice_size=execution.slice_size,
                devices=layout.everything,
            )
            for lr in (training.lr, training.lr * _FINE_TUNING_LR)
        ]
        self._plain, self._distilled = [], []
        for recipe in self._recipes:
            distilled = functools.partial(
                train_distilled,
                recipe,
                weight=config.distillation,
                temperature=config.temperature,
            )
            plain = functools.partial(train_plain, recipe)
            self._plain.append(compile_everywhere(plain, execution))
            self._distilled.append(compile_everywhere(distilled, execution))
        test = functools.partial(
            accuracy, self._network, slice_size=execution.slice_size
        )
        self._test = compile_everywhere(test, execution)

    def init(self) -> Variables:
        """Returns the network before the first task."""
        images = jnp.zeros((1, *self._dataset.image_shape))
        return self._put(self._network.init(jax.random.key(self._config.seed), images))

    def learn(
        self, number: int, variables: Variables, memory: list[SyntheticSet]
    ) -> Variables:
        """Trains the network on a task and the memory, then fine-tunes it.

        Args:
          number: of the task, from 0.
          variables: of the network that learned the earlier tasks.
          memory: of each earlier task.

        Returns:
          The variables of the network after the task.

        Raises:
          Stopped: a signal stopped the training; the task must be learned again.
          FloatingPointError: the network is not finite.
        """
        task, training = self.tasks[number], self._config.training
        new = _images(task)
        old = [_remembered(*pair) for pair in zip(self.tasks, memory, strict=False)]
        step = functools.partial(self._step, number, variables)
        learned = self._train(number, 0, variables, step, [new, *old])
        if old and training.fine_tuning:
            kept = balance(*new, self._config.condense.ipc, self._rng(number, 2))
            learned = self._train(number, 1, learned, step, [kept, *old])
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(learned)):
            raise FloatingPointError(
                f"the network became NaN or infinite in task {number + 1}: try a "
                f"smaller config.training.lr than {training.lr:g}."
            )
        return learned

    def test(self, number: int, variables: Variables) -> float:
        """Returns the accuracy on the test images of a task, in [0, 1]."""
        dataset, classes = self.tasks[number]
        images = _inputs(dataset.test_images, dataset)
        labels = classes[dataset.test_labels].astype(np.int32)
        return float(self._test(variables, self._put(images), self._put(labels)))

    def _train(
        self,
        number: int,
        phase: int,
        variables: Variables,
        step: Callable[..., Any],
        parts: list[Images],
    ) -> Variables:
        """Trains on the images of several sources; phase 1 is the fine-tuning."""
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        training, what = self._config.training, ("Learning", "Fine-tuning")[phase]
        iterations = (training.iterations, training.fine_tuning)[phase]
        batches = draw_batches(
            len(labels), training.batch_size, iterations, self._rng(number, phase)
        )
        state = self._put(init_state(self._recipes[phase], variables))
        title = f"{what} task {number + 1} of {len(self.tasks)}"
        bar = Progress(title, iterations, unit="batches", stays=True)
        with bar, StopSignals() as signals:
            for index, batch in enumerate(batches):
                state = step(phase, state, images[batch], labels[batch])
                is_waited = index % _BATCHES_AHEAD == 0 or index == iterations - 1
                if is_waited and not signals.wait(state.step):
                    raise Stopped(signals.number, number, "task")
                bar.advance()
        return state.variables

    def _step(
        self,
        number: int,
        old: Variables,
        phase: int,
        state: Any,
        images: np.ndarray,
        labels: np.ndarray,
    ) -> Any:
        """Trains with one batch; distils in all tasks but the first."""
        batch = self._put((images, labels))
        if number == 0 or self._config.distillation == 0:
            return self._plain[phase](state, *batch)
        is_old = np.zeros(self._dataset.num_classes, bool)
        for task in self.tasks[:number]:
            is_old[task.classes] = True
        return self._distilled[phase](state, old, self._put(is_old), *batch)

    def _rng(self, number: int, phase: int) -> np.random.Generator:
        return np.random.default_rng([self._config.seed, number, phase])

    def _put(self, tree: Any) -> Any:
        """Puts whole arrays on every device."""
        return jax.tree.map(lambda leaf: self._layout.put(np.asarray(leaf)), tree)


def balance(
    images: np.ndarray, labels: np.ndarray, ipc: int, rng: np.random.Generator
) -> Images:
    """Returns as many images per class as the memory has of each class of a task.

    They are drawn at random whatever method makes the memory, so that methods differ
    only in what they keep of old tasks.
    """
    kept = draw_per_class(labels, ipc, rng)
    return images[kept], labels[kept]


def _images(task: Task) -> Images:
    """Returns the training images, as networks see them, with the network's labels."""
    dataset = task.dataset
    images = _inputs(dataset.train_images, dataset)
    return np.asarray(images), task.classes[dataset.train_labels].astype(np.int32)


def _inputs(images: np.ndarray, dataset: Dataset) -> jax.Array:
    return to_inputs(images, dataset.mean, dataset.std, dataset.whitening)


def _remembered(task: Task, memory: SyntheticSet) -> Images:
    """Returns the images of a memory with the network's labels."""
    memory = decode_set(memory)
    images, labels = flatten_set(np.asarray(memory.images), np.asarray(memory.labels))
    return images, task.classes[labels].astype(np.int32)

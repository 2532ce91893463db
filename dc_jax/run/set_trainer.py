"""Trains networks on sets, some epochs in a call, and tests them.

A call takes about a second, so that it can be told how far the evaluation is, and how
long it will take. The networks are the same bit for bit as those of one call.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dc_jax.base import SyntheticSet, flatten_set
from dc_jax.data.store import to_inputs
from dc_jax.evaluation.evaluator import Data, Phase, Programs
from dc_jax.evaluation.protocol import Protocol
from dc_jax.progress import Progress
from dc_jax.sets.make import decode_set

# How long a call should take, and by what factor the next may have more epochs.
_SECONDS, _GROWTH = 1.0, 4
# How long epochs are timed at least to tell how long the evaluation will take.
_TIMED = 0.3


class Pace:
    """Chooses how many epochs a call trains for, by the time that the last took."""

    def __init__(self):
        self.epochs = 1

    def calls(self, epochs: int) -> Iterator[tuple[int, int]]:
        """Yields the first epoch of each call and that after its last.

        The caller waits for a call before it asks for the next.
        """
        done = 0
        while done < epochs:
            until, began = min(done + self.epochs, epochs), time.monotonic()
            yield done, until
            seconds = max(time.monotonic() - began, 1e-6)
            wanted = int(_SECONDS * (until - done) / seconds)
            self.epochs = max(1, min(wanted, _GROWTH * self.epochs))
            done = until


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Trains networks on sets and tests them, by programs that are compiled once."""

    test_images: np.ndarray  # [n, H, W, D], not normalised, as in a `Dataset`
    test_labels: np.ndarray  # [n]
    protocol: Protocol  # How `by_protocol` trains.
    # Jitted, for `train_by_protocol` and `train_by_learning_rates`.
    by_protocol: Programs
    by_learning_rates: Programs | None = None
    at_once: int | None = None  # Networks that one call of a program trains; None: all.
    pace: Pace = dataclasses.field(default_factory=Pace)

    def count(
        self, synthetic: SyntheticSet, keys: Any, progress: Progress | None = None
    ) -> np.ndarray:
        """Returns a confusion matrix for each network that the protocol trains.

        The keys `[N]`, one for each network, to `[N, C, C]`, float64. `progress` counts
        the epochs of all networks.
        """
        data = _by_protocol(synthetic)
        return self._count(self.by_protocol, data, synthetic, keys, progress)

    def count_own(self, synthetic: SyntheticSet, keys: Any) -> np.ndarray:
        """Returns what `count` does, for training by the set's own learning rates."""
        arrays = (synthetic.images, synthetic.labels, synthetic.learning_rates)
        data = tuple(jnp.asarray(array) for array in arrays)
        return self._count(self.by_learning_rates, data, synthetic, keys, None)

    def epochs(self, num: int) -> int:
        """Returns the epochs of `num` networks together, as `count` tells them."""
        return num * sum(phase.epochs for phase in self.by_protocol.phases)

    def calls(self, num: int) -> int:
        """Returns how many calls of a program train `num` networks."""
        return -(-num // (self.at_once or num))

    def compile(self, synthetic: SyntheticSet, keys: Any) -> None:
        """Compiles what `count` needs, once."""
        data, programs = _by_protocol(synthetic), self.by_protocol
        some = next(self._groups(keys))
        programs.init.lower(data, some).compile()
        states = programs.init(data, some)
        for phase in programs.phases:
            arguments = (data, some, jnp.int32(0), jnp.int32(0))
            phase.start.lower(states).compile()
            phase.train.lower(states, *arguments).compile()
        programs.test.lower(states, *self._tests(synthetic)).compile()

    def measure(self, synthetic: SyntheticSet, keys: Any) -> float:
        """Returns how many seconds `count` will take, by a few epochs and one test."""
        data, programs = _by_protocol(synthetic), self.by_protocol
        groups = list(self._groups(keys))
        states = programs.init(data, groups[0])
        seconds = 0.0
        for phase in programs.phases:
            states = phase.start(states)

            def train(epochs: int, phase: Phase = phase, states: Any = states) -> None:
                part = (jnp.int32(0), jnp.int32(epochs))
                jax.block_until_ready(phase.train(states, data, groups[0], *part))

            seconds += _time_epochs(train, phase.epochs)
        tests, began = self._tests(synthetic), time.monotonic()
        jax.block_until_ready(programs.test(states, *tests))
        return len(groups) * (seconds + time.monotonic() - began)

    def _count(
        self,
        programs: Programs,
        data: Data,
        synthetic: SyntheticSet,
        keys: Any,
        progress: Progress | None,
    ) -> np.ndarray:
        """Returns what a program counts for all keys, `at_once` of them in a call."""
        tests, num, counts = self._tests(synthetic), _num(keys), []
        for some in self._groups(keys):
            of_some = min(_num(some), num - sum(map(len, counts)))
            states = programs.init(data, some)
            for phase in programs.phases:
                states = phase.start(states)
                for done, until in self.pace.calls(phase.epochs):
                    part = (jnp.int32(done), jnp.int32(until))
                    states = phase.train(states, data, some, *part)
                    jax.block_until_ready(states)
                    if progress is not None:
                        progress.advance((until - done) * of_some, note="")
            if progress is not None:
                progress.advance(0, note="testing")
            tested = np.asarray(programs.test(states, *tests), np.float64)
            counts.append(tested[:of_some])
        return np.concatenate(counts)

    def _groups(self, keys: Any) -> Iterator[Any]:
        """Yields the keys of a call. The last group is filled up: one program does."""
        num = _num(keys)
        size = self.at_once or num
        places = np.minimum(np.arange(-(-num // size) * size), num - 1)
        for group in places.reshape(-1, size):
            yield jax.tree.map(lambda leaf, group=group: leaf[group], keys)

    def _tests(self, synthetic: SyntheticSet) -> tuple[jax.Array, jax.Array]:
        how = (synthetic.mean, synthetic.std, synthetic.whitening)
        images = to_inputs(self.test_images, *how)
        return images, jnp.asarray(self.test_labels)


def _time_epochs(train: Callable[[int], None], epochs: int) -> float:
    """Returns how many seconds all epochs take, by training for a few of them."""
    timed, seconds = 0, 0.0
    while timed < epochs and seconds < _TIMED:
        timed, began = min(max(_GROWTH * timed, 1), epochs), time.monotonic()
        train(timed)
        seconds = time.monotonic() - began
    return seconds * epochs / max(timed, 1)


def _by_protocol(synthetic: SyntheticSet) -> tuple[jax.Array, jax.Array]:
    """Returns the images `[n, H, W, D]`, and labels `[n]` or soft labels `[n, C]`."""
    synthetic = decode_set(synthetic)
    labels = np.asarray(synthetic.labels)
    images, flat_labels = flatten_set(jnp.asarray(synthetic.images), labels)
    if synthetic.soft_labels is not None:
        flat_labels, _ = flatten_set(np.asarray(synthetic.soft_labels), labels)
    return images, jnp.asarray(flat_labels)


def _num(keys: Any) -> int:
    return len(jax.tree.leaves(keys)[0])

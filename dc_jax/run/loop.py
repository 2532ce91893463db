"""The iterations of a run: checkpoints, signals, metrics, evaluation on the way."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from dc_jax.base import LAYER, CondenseState, Method, SyntheticSet
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.data.store import ClassStore, make_store
from dc_jax.data.stream import HostStore, prefetch
from dc_jax.devices import processes
from dc_jax.devices.backend import Execution
from dc_jax.devices.layout import Layout
from dc_jax.errors import UserError
from dc_jax.evaluation.evaluator import Evaluator, evaluate_sets, make_sets
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.run.compiled import compile_draws, compile_method, experiment_keys
from dc_jax.run.metrics import Metrics
from dc_jax.run.signals import Stopped, StopSignals, signals_kill


@dataclasses.dataclass
class Loop:
    """The iterations of a run, from its last checkpoint to the end."""

    config: Config
    folder: Path
    checkpointer: Checkpointer
    dataset: Dataset

    def run(
        self, method: Method, execution: Execution, evaluator: Evaluator
    ) -> tuple[CondenseState, float]:
        """Returns the last state, leaves `[E, ...]`, and the seconds it took."""
        init, step = compile_method(method, execution)
        init_keys, step_keys, _ = jax.vmap(
            lambda experiment: experiment_keys(self.config, experiment)
        )(jnp.arange(self.config.num_experiments)).T
        store, make_stores = self._stores(
            method, execution.layout, init_keys=init_keys, step_keys=step_keys
        )
        first, state, before = self._restore(init(store, init_keys))
        clock = _Clock(before)
        metrics = Metrics(
            self.folder,
            first=first,
            total=self.config.iterations,
            seconds=before,
            tensorboard=self.config.tensorboard,
        )

        def first_set() -> SyntheticSet:
            return make_sets(self.config, state, self.dataset)[0]

        iterations = range(first, self.config.iterations)
        with metrics, StopSignals() as signals, make_stores(iterations) as stores:
            if first == 0:
                metrics.images(0, first_set)
            for iteration, store in zip(iterations, stores, strict=False):
                if self._is_evaluated(iteration):
                    self._save_and_wait(iteration, state, clock)
                    metrics.accuracy(iteration, self._evaluate(state, evaluator))
                good = state
                state, out = step(good, store, step_keys, jnp.int32(iteration))
                if not signals.wait(out):
                    self._save_and_wait(iteration, good, clock)
                    raise Stopped(signals.number, iteration)
                if not out["is_finite"].all():
                    self._save_and_wait(iteration, good, clock)
                    raise FloatingPointError(self._not_finite(iteration))
                metrics.loss(iteration + 1, np.asarray(out["loss"]), _layers(out))
                metrics.images(iteration + 1, first_set)
                if clock.since_save() >= 60 * self.config.checkpoint_minutes:
                    self._save(iteration + 1, state, clock)
        if first < self.config.iterations:
            self._save_and_wait(self.config.iterations, state, clock)
        return state, clock.seconds()

    def _stores(
        self,
        method: Method,
        layout: Layout,
        *,
        init_keys: jax.Array,
        step_keys: jax.Array,
    ) -> tuple[
        ClassStore,
        Callable[[range], contextlib.AbstractContextManager[Iterator[ClassStore]]],
    ]:
        """Returns the real images to begin with, and how to get those of iterations."""
        if not self.config.dataset.stream:
            store = make_store(self.dataset, layout)
            return store, lambda _: contextlib.nullcontext(itertools.repeat(store))
        host = HostStore(self.dataset, layout)
        init_draws, step_draws = compile_draws(method)

        def draw(iteration: int) -> jax.Array:
            return step_draws(host.index, step_keys, jnp.int32(iteration))

        store = host.load(init_draws(host.index, init_keys))
        return store, lambda iterations: contextlib.closing(
            prefetch(draw, host.load, iterations)
        )

    def _restore(self, state: CondenseState) -> tuple[int, CondenseState, float]:
        """Returns iteration, state and seconds of the last checkpoint, or of none."""
        restored = self.checkpointer.restore(state)
        if restored is None:
            return 0, state, 0.0
        if restored.step > self.config.iterations:
            raise UserError(
                f"config.iterations must be at least {restored.step}, which "
                f"--workdir={self.folder} has reached, got {self.config.iterations}."
            )
        if restored.meta["dataset"] != self.dataset.checksum():
            raise UserError(
                f"--workdir={self.folder} holds a run on other images than those of "
                f"{self.dataset.source}: choose another folder."
            )
        logging.info("Continuing after iteration %d.", restored.step)
        return restored.step, restored.state, restored.meta["seconds"]

    def _save(self, iteration: int, state: CondenseState, clock: "_Clock") -> None:
        meta = {"seconds": clock.seconds(), "dataset": self.dataset.checksum()}
        self.checkpointer.save(iteration, state, meta)
        clock.saved()

    def _save_and_wait(self, *args: Any) -> None:
        """Saves, and waits until the first process has written it."""
        self._save(*args)
        processes.on_first(lambda: None)

    def _is_evaluated(self, iteration: int) -> bool:
        every = self.config.eval_every
        return bool(every) and iteration > 0 and iteration % every == 0

    def _evaluate(self, state: CondenseState, evaluator: Evaluator) -> np.ndarray:
        """Returns the accuracies `[E, N]` of a state that is saved."""
        with signals_kill():
            sets = make_sets(self.config, state, self.dataset)
            return evaluate_sets(self.config, evaluator, sets)

    def _not_finite(self, iteration: int) -> str:
        return (
            f"the loss or the images became NaN or infinite in iteration "
            f"{iteration + 1}; the state before it is saved in {self.folder}. Try a "
            f"smaller config.lr_img than {self.config.lr_img:g}, in another folder."
        )


def _layers(out: dict[str, jax.Array]) -> dict[str, float]:
    """Returns the summands of the loss, means over experiments, where there are any."""
    names = [name for name in out if name.startswith(LAYER)]
    return {n.removeprefix(LAYER): float(np.asarray(out[n]).mean()) for n in names}


class _Clock:
    """Seconds of a run over all its sessions, and since its last checkpoint."""

    def __init__(self, before: float):
        self._began = time.monotonic() - before
        self._saved = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def since_save(self) -> float:
        return time.monotonic() - self._saved

    def saved(self) -> None:
        self._saved = time.monotonic()

"""The iterations of a run: checkpoints, signals, metrics, evaluation on the way."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from dc_jax.base import CondenseState, Method, SyntheticSet
from dc_jax.data.store import ClassStore, make_store
from dc_jax.data.stream import HostStore, prefetch
from dc_jax.devices import processes
from dc_jax.devices.layout import ONE_DEVICE
from dc_jax.errors import UserError
from dc_jax.evaluation.evaluator import accuracies
from dc_jax.methods import make_method
from dc_jax.progress import Progress
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.run.compiled import compile_draws, compile_method, experiment_keys
from dc_jax.run.evaluation import count_sets, measure_evaluation
from dc_jax.run.metrics import Metrics
from dc_jax.run.set_trainer import Evaluator
from dc_jax.run.setup import Setup
from dc_jax.run.signals import Stopped, StopSignals, ends_at_once, tell_saved
from dc_jax.sets.make import make_sets


class _Step(NamedTuple):
    """An iteration that the devices compute, or have computed."""

    iteration: int  # From 0.
    before: CondenseState
    after: CondenseState
    out: dict[str, Any]  # Its metrics.


@dataclasses.dataclass
class Loop:
    """The iterations of a run, from its last checkpoint to the end.

    The devices always have a step to compute: the next one is begun before the host
    reads the metrics of the last.
    """

    setup: Setup
    evaluator: Evaluator
    folder: Path
    checkpointer: Checkpointer

    def run(self, method: Method) -> tuple[list[SyntheticSet], float]:
        """Returns the set of each experiment, and the seconds it took."""
        config = self.setup.config
        init, step = compile_method(method, self.setup.execution)
        init_keys, step_keys, _ = jax.vmap(
            lambda experiment: experiment_keys(config, experiment)
        )(jnp.arange(config.num_experiments)).T
        with Progress("Putting the images on the devices"):
            store, make_stores = self._stores(init_keys, step_keys)
        with Progress("Compiling the beginning"):
            state = jax.block_until_ready(init(store, init_keys))
        first, state, before = self._restore(state)
        evaluating = self._measure_evaluations(first, state)
        clock = _Clock(before)
        metrics = Metrics(
            self.folder,
            first=first,
            total=config.iterations,
            seconds=before,
            evaluating=evaluating,
            tensorboard=config.tensorboard,
        )
        iterations = range(first, config.iterations)
        # Two iterations' images of a dataset larger than memory may be too many.
        is_ahead = not config.dataset.stream
        pending = None
        with metrics, StopSignals() as signals, make_stores(iterations) as stores:
            if first == 0:
                metrics.images(0, lambda: self._first_set(state))
            for iteration, store in zip(iterations, stores, strict=False):
                if self._is_evaluated(iteration):
                    self._finish(pending, signals, metrics, clock)
                    pending = None
                    self._save(iteration, state, clock)
                    metrics.accuracy(iteration, self._evaluate(state, iteration))
                arguments = (state, store, step_keys, jnp.int32(iteration))
                if iteration == first:
                    self._compile(step, arguments, first)
                    metrics.begin()
                after, out = step(*arguments)
                self._finish(pending, signals, metrics, clock)
                pending = _Step(iteration, state, after, out)
                state = after
                if not is_ahead:
                    self._finish(pending, signals, metrics, clock)
                    pending = None
            self._finish(pending, signals, metrics, clock)
        if first < config.iterations:
            self._save(config.iterations, state, clock)
        return self._make_sets(state), clock.seconds()

    def _compile(self, step: Any, arguments: tuple[Any, ...], first: int) -> None:
        """Compiles the step ahead of its first call, which a signal may end."""
        with self._ends_at_once(first), Progress("Compiling the iteration"):
            step.lower(*arguments).compile()

    def _ends_at_once(self, saved: int) -> contextlib.AbstractContextManager[None]:
        return ends_at_once(lambda: tell_saved(saved, self.folder))

    def _measure_evaluations(self, first: int, state: CondenseState) -> float:
        """Compiles the evaluation; returns the seconds of all that are left."""
        config = self.setup.config
        if first == config.iterations:
            return 0.0
        num = 1 + sum(map(self._is_evaluated, range(first, config.iterations)))
        each = measure_evaluation(config, self.evaluator, self._first_set(state))
        return num * config.num_experiments * each

    def _finish(
        self,
        step: _Step | None,
        signals: StopSignals,
        metrics: Metrics,
        clock: "_Clock",
    ) -> None:
        """Waits for a step, checks it, and records it.

        Raises:
          Stopped: by a signal; the state before the step is saved.
          FloatingPointError: the step's loss or images are not finite; likewise.
        """
        if step is None:
            return
        if not signals.wait(step.out):
            self._save(step.iteration, step.before, clock)
            raise Stopped(signals.number, step.iteration)
        out = jax.device_get(step.out)
        done = step.iteration + 1
        if not out["is_finite"].all():
            self._save(step.iteration, step.before, clock)
            raise FloatingPointError(
                f"the loss or the images became NaN or infinite in iteration {done}; "
                f"the state before it is saved in {self.folder}. Try a smaller "
                f"config.lr_img than {self.setup.config.lr_img:g}, in another folder."
            )
        # Of all but the loss, the mean over experiments.
        more = {n: v for n, v in out.items() if n not in ("loss", "is_finite")}
        more = jax.tree.map(lambda values: float(values.mean()), more)
        metrics.loss(done, out["loss"], more)
        metrics.images(done, lambda: self._first_set(step.after))
        if clock.since_save() >= 60 * self.setup.config.checkpoint_minutes:
            self._save(done, step.after, clock)

    def _stores(
        self, init_keys: jax.Array, step_keys: jax.Array
    ) -> tuple[
        ClassStore,
        Callable[[range], contextlib.AbstractContextManager[Iterator[ClassStore]]],
    ]:
        """Returns the real images to begin with, and how to get those of iterations."""
        setup = self.setup
        if not setup.config.dataset.stream:
            store = make_store(setup.dataset, setup.layout)
            return store, lambda _: contextlib.nullcontext(itertools.repeat(store))
        host = HostStore(setup.dataset, setup.layout)
        one_device = dataclasses.replace(setup.execution, layout=ONE_DEVICE)
        method = make_method(setup.config, setup.network, one_device)
        init_draws, step_draws = compile_draws(method, host.index)

        def draw(iteration: int) -> jax.Array:
            return step_draws(step_keys, jnp.int32(iteration))

        store = host.load(init_draws(init_keys))
        return store, lambda iterations: contextlib.closing(
            prefetch(draw, host.load, iterations)
        )

    def _restore(self, state: CondenseState) -> tuple[int, CondenseState, float]:
        """Returns iteration, state and seconds of the last checkpoint, or of none."""
        restored = self.checkpointer.restore(state)
        if restored is None:
            return 0, state, 0.0
        iterations = self.setup.config.iterations
        if restored.step > iterations:
            raise UserError(
                f"config.iterations must be at least {restored.step}, which "
                f"--workdir={self.folder} has reached, got {iterations}."
            )
        if restored.meta["dataset"] != self.setup.dataset.checksum():
            raise UserError(
                f"--workdir={self.folder} holds a run on other images than those of "
                f"{self.setup.dataset.source}: choose another folder."
            )
        logging.info("Continuing after iteration %d.", restored.step)
        return restored.step, restored.state, restored.meta["seconds"]

    def _save(self, iteration: int, state: CondenseState, clock: "_Clock") -> None:
        meta = {"seconds": clock.seconds(), "dataset": self.setup.dataset.checksum()}
        # The other processes wait until the first has written it.
        processes.on_first(self.checkpointer.save, iteration, state, meta)
        clock.saved()

    def _first_set(self, state: CondenseState) -> SyntheticSet:
        return self._make_sets(state)[0]

    def _make_sets(self, state: CondenseState) -> list[SyntheticSet]:
        dataset = self.setup.dataset
        class_ipc = self.setup.config.class_ipc(dataset.num_classes)
        factor = self.setup.config.formation.factor
        return make_sets(state, dataset, class_ipc, factor)

    def _is_evaluated(self, iteration: int) -> bool:
        every = self.setup.config.eval_every
        return bool(every) and iteration > 0 and iteration % every == 0

    def _evaluate(self, state: CondenseState, iteration: int) -> np.ndarray:
        """Returns the accuracies `[E, N]` of a state that is saved."""
        with self._ends_at_once(iteration):
            sets = self._make_sets(state)
            return accuracies(count_sets(self.setup.config, self.evaluator, sets))


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

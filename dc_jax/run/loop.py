"""The iterations of a run: checkpoints, signals, metrics, evaluation on the way."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from dc_jax.base import CondenseState, Method, SyntheticSet
from dc_jax.data.store import ClassStore
from dc_jax.devices import processes
from dc_jax.errors import UserError
from dc_jax.evaluation.evaluator import accuracies
from dc_jax.progress import Progress
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.run.compiled import compile_method, experiment_keys
from dc_jax.run.evaluation import count_sets, measure_evaluation
from dc_jax.run.metrics import Metrics
from dc_jax.run.random_baseline import num_draws
from dc_jax.run.set_trainer import Evaluator
from dc_jax.run.setup import Setup
from dc_jax.run.signals import Stopped, StopSignals, ends_at_once, tell_saved
from dc_jax.run.stopping import Enough, Patience
from dc_jax.run.stores import make_stores
from dc_jax.sets.make import make_sets


class _Step(NamedTuple):
    """An iteration that the devices compute, or have computed."""

    iteration: int  # From 0.
    before: CondenseState
    after: CondenseState
    out: dict[str, Any]  # Its metrics.


class _Session(NamedTuple):
    """What the iterations of a session are told to."""

    signals: StopSignals
    metrics: Metrics
    clock: "_Clock"
    patience: Patience


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
    is_evaluated_after: bool = True  # Otherwise nothing is compiled for that.

    def run(
        self, method: Method, experts: np.ndarray | None = None
    ) -> tuple[list[SyntheticSet], dict[str, Any]]:
        """Returns the set of each experiment, and other fields of the result.

        The experts are those that the method needs, see `ClassStore`.
        """
        config = self.setup.config
        init, step = compile_method(method, self.setup.execution)
        init_keys, step_keys, _ = jax.vmap(
            lambda experiment: experiment_keys(config, experiment)
        )(jnp.arange(config.num_experiments)).T
        # Steps of less than two seconds each, that tell of nothing alone, are told of.
        with Progress("Preparing the iterations"):
            with Progress("Putting the images on the devices"):
                keys = (init_keys, step_keys)
                store, stores_of = make_stores(self.setup, *keys, experts)
            with Progress("Compiling the beginning"):
                state = jax.block_until_ready(init(store, init_keys))
            first, state, before = self._restore(state)
            patience = Patience(config, self.folder, first, before)
            last = first if patience.reason() else config.iterations
            iterations = range(first, last)
            evaluating = self._measure_evaluations(iterations, state)
        clock = _Clock(before)
        metrics = Metrics(
            self.folder,
            first=first,
            total=config.iterations,
            seconds=before,
            minutes=config.minutes,
            evaluating=evaluating,
            tensorboard=config.tensorboard,
        )
        done = last
        with metrics, StopSignals() as signals, stores_of(iterations) as stores:
            if first == 0:
                metrics.images(0, lambda: self._first_set(state))
            session = _Session(signals, metrics, clock, patience)
            try:
                pairs = zip(iterations, stores, strict=False)
                state = self._iterate(step, state, step_keys, pairs, session)
            except Enough as enough:
                done, state = enough.iteration, enough.state
        if iterations:
            self._save(done, state, clock)
        facts: dict[str, Any] = {"iterations": done}
        reason = patience.reason()
        if reason and done < config.iterations:
            logging.info("Iteration %d is the last: %s.", done, reason)
            facts["stopped"] = reason
        return self._make_sets(state), facts | {"seconds_condense": clock.seconds()}

    def _iterate(
        self,
        step: Callable[..., Any],
        state: CondenseState,
        keys: jax.Array,
        pairs: Iterable[tuple[int, ClassStore]],
        session: "_Session",
    ) -> CondenseState:
        """Makes an iteration for each number and store; returns the last state.

        Raises:
          Enough, Stopped, FloatingPointError: see `_finish`.
        """
        # Two iterations' images of a dataset larger than memory may be too many.
        is_ahead = not self.setup.config.dataset.stream
        pending = first = None
        for iteration, store in pairs:
            if self._is_evaluated(iteration):
                self._finish(pending, session)
                pending = None
                self._save(iteration, state, session.clock)
                self._evaluate(iteration, state, session)
            arguments = (state, store, keys, jnp.int32(iteration))
            if first is None:
                first = iteration
                self._compile(step, arguments, first)
                session.metrics.begin()
            after, out = step(*arguments)
            self._finish(pending, session)
            pending = _Step(iteration, state, after, out)
            state = after
            if not is_ahead:
                self._finish(pending, session)
                pending = None
        self._finish(pending, session)
        return state

    def _compile(self, step: Any, arguments: tuple[Any, ...], first: int) -> None:
        """Compiles the step ahead of its first call, which a signal may end."""
        with self._ends_at_once(first), Progress("Compiling the iteration"):
            step.lower(*arguments).compile()

    def _ends_at_once(self, saved: int) -> contextlib.AbstractContextManager[None]:
        return ends_at_once(lambda: tell_saved(saved, self.folder))

    def _measure_evaluations(
        self, iterations: range, state: CondenseState
    ) -> dict[str, float]:
        """Compiles the evaluation; returns the seconds of all that are left."""
        config = self.setup.config
        num = sum(map(self._is_evaluated, iterations))
        num += bool(iterations and self.is_evaluated_after)
        if num == 0:
            return {}
        synthetic = self._first_set(state)
        of_set, of_one = measure_evaluation(config, self.evaluator, synthetic)
        return {
            "evaluating": num * config.num_experiments * of_set,
            "evaluating random images": num_draws(config) * of_one,
        }

    def _finish(self, step: _Step | None, session: "_Session") -> None:
        """Waits for a step, checks it, and records it.

        Raises:
          Enough: there have been enough iterations.
          Stopped: by a signal; the state before the step is saved.
          FloatingPointError: the step's loss or images are not finite; likewise.
        """
        if step is None:
            return
        signals, metrics, clock, patience = session
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
        patience.note(done, clock.seconds(), loss=float(out["loss"].mean()))
        if patience.reason():
            raise Enough(done, step.after)
        if clock.since_save() >= 60 * self.setup.config.checkpoint_minutes:
            self._save(done, step.after, clock)

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

    def _evaluate(
        self, iteration: int, state: CondenseState, session: "_Session"
    ) -> None:
        """Records the accuracies of a state that is saved.

        Raises:
          Enough: there have been enough iterations.
        """
        with self._ends_at_once(iteration):
            sets = self._make_sets(state)
            counts = count_sets(self.setup.config, self.evaluator, sets)
        of_sets = accuracies(counts)
        session.metrics.accuracy(iteration, of_sets)
        seconds, mean = session.clock.seconds(), float(of_sets.mean())
        session.patience.note(iteration, seconds, accuracy_mean=mean)
        if session.patience.reason():
            raise Enough(iteration, state)


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

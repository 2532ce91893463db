"""The host's side of a run: compile, loop, checkpoint, evaluate.

With `whole_trainer` the only module with `jax.jit`; all of it is plain Python around
two pure functions, the step of a method and the evaluation of a set.
"""

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import PartitionSpec as P

from dc_jax import artefact, hosts, workdir
from dc_jax.base import CondenseState, Method, SyntheticSet
from dc_jax.baselines import check_baseline, select, whole_accuracies
from dc_jax.checkpoint import Checkpointer
from dc_jax.config import Config
from dc_jax.data import ClassStore, Dataset, make_store, normalise
from dc_jax.data.store import store_specs
from dc_jax.data.stream import HostStore, prefetch
from dc_jax.evaluate import Protocol, make_evaluate, make_protocol
from dc_jax.execution import Execution, compiler_options, use_compilation_cache
from dc_jax.methods import BASELINES, make_method
from dc_jax.parallel import Layout, make_layout
from dc_jax.parts import check_fit, check_names, load, log_choices, make_parts
from dc_jax.progress import Metrics, Stopped, StopSignals, signals_kill
from dc_jax.train import batched


def condense(config: Config, folder: str) -> dict[str, Any]:
    """Condenses a dataset and evaluates the result, or continues where a run stopped.

    Args:
      config: the run.
      folder: for all that it writes; created where needed.

    Returns:
      What is in `result.json`.

    Raises:
      ValueError: the config or the dataset is unusable, or `folder` holds another run.
      FloatingPointError: the loss or the images stopped being finite.
      Stopped: by a signal; the state is saved.
    """
    folder = Path(folder)
    result = hosts.on_first(workdir.finished_result, config, folder)
    if result is None:
        dataset = _prepare(config)
        layout = make_layout(config, dataset.num_classes)
        evaluator = make_evaluator(config, dataset, layout)
        if config.method in BASELINES:
            check_baseline(config, dataset, layout)
            run = functools.partial(_run_baseline, config, folder, layout, evaluator)
        else:
            network, execution = make_parts(config, dataset, "network", layout)
            method = make_method(config, network, execution)
            log_choices(config, dataset, layout)
            run = functools.partial(_run, config, folder, method, execution, evaluator)
        with workdir.entered(config, folder):
            result = run()
    else:
        logging.info("%s holds the finished run already.", folder)
    workdir.log_result(result)
    return result


def _prepare(config: Config) -> Dataset:
    """Checks the config and loads its dataset."""
    check_names(config)
    use_compilation_cache(config.execution)
    dataset = load(config)
    hosts.check_same("the dataset", dataset.checksum())
    return dataset


def _run(
    config: Config,
    folder: Path,
    method: Method,
    execution: Execution,
    evaluator: "Evaluator",
) -> dict[str, Any]:
    """Condenses, evaluates and saves; returns the result."""
    dataset = evaluator.dataset
    checkpointer = Checkpointer(folder / "checkpoints")
    try:
        loop = Loop(config, folder, checkpointer, dataset)
        state, seconds = loop.run(method, execution, evaluator)
    finally:
        checkpointer.close()

    sets = [make_set(images, dataset) for images in np.asarray(state.images)]
    return _finish(
        config, folder, evaluator, sets, seconds, iterations=config.iterations
    )


def _run_baseline(
    config: Config, folder: Path, layout: Layout, evaluator: "Evaluator"
) -> dict[str, Any]:
    """Chooses, evaluates and saves coresets, or does without; returns the result."""
    dataset = evaluator.dataset
    if config.method == "whole":
        accuracies, seconds = whole_accuracies(
            config, folder, dataset, layout, evaluator.protocol
        )
        return _save(config, folder, evaluator, [], accuracies, seconds=seconds)
    indices, seconds = select(config, folder, dataset, layout)
    sets = [make_coreset(chosen, dataset) for chosen in indices]
    return _finish(config, folder, evaluator, sets, seconds)


def _finish(
    config: Config,
    folder: Path,
    evaluator: "Evaluator",
    sets: list[SyntheticSet],
    seconds: float,
    **facts: Any,
) -> dict[str, Any]:
    """Evaluates and saves sets that were made in so many seconds."""
    began = time.monotonic()
    with signals_kill():
        accuracies = evaluate_sets(config, evaluator, sets)
    return _save(
        *(config, folder, evaluator, sets, accuracies),
        **facts,
        seconds=seconds + time.monotonic() - began,
        seconds_condense=seconds,
    )


def _save(
    config: Config,
    folder: Path,
    evaluator: "Evaluator",
    sets: list[SyntheticSet],
    accuracies: np.ndarray,
    **facts: float,
) -> dict[str, Any]:
    """Saves what a run leaves behind; returns the result."""
    result = {
        **workdir.summarise(accuracies),
        "protocol": dataclasses.asdict(evaluator.protocol),
        **{name: round(value, 3) for name, value in facts.items()},
    }
    hosts.on_first(
        workdir.save_run,
        *(config, folder, evaluator.dataset),
        protocol=evaluator.protocol,
        sets=sets,
        result=result,
    )
    return result


def evaluate(
    config: Config, set_path: str, *, folder: str | None = None
) -> dict[str, Any]:
    """Evaluates saved sets on the test split of the config's dataset.

    Args:
      config: its dataset, network and evaluation.
      set_path: a `synthetic_set.npz`, or the folder of a run for all of its sets.
      folder: where given, a line is added to `evaluations.jsonl` there.

    Returns:
      The accuracies.

    Raises:
      ValueError: the set or the config is unusable, or they do not fit.
    """
    sets = _load_sets(set_path)
    dataset = _prepare(config)
    for synthetic in sets:
        check_fit(synthetic, dataset, set_path)
    layout = make_layout(config, dataset.num_classes)
    evaluator = make_evaluator(config, dataset, layout)
    began = time.monotonic()
    result = {
        **workdir.summarise(evaluate_sets(config, evaluator, sets)),
        "seconds": round(time.monotonic() - began, 3),
        "set": str(set_path),
        "protocol": dataclasses.asdict(evaluator.protocol),
    }
    if folder:
        hosts.on_first(workdir.add_evaluation, Path(folder), result)
    workdir.log_result(result)
    return result


def _load_sets(path: str) -> list[SyntheticSet]:
    """Loads sets on the first process, for all."""
    fields = hosts.on_first(lambda: list(map(vars, artefact.load_synthetic_sets(path))))
    return [
        SyntheticSet(**one | {"class_names": tuple(one["class_names"])})
        for one in fields
    ]


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Trains networks on a set and tests them, in one program that is compiled once.

    Attributes:
      dataset: whose test split is used.
      protocol: how the networks are trained.
      train_and_test: see `make_evaluate`; jitted.
    """

    dataset: Dataset
    protocol: Protocol
    train_and_test: Callable[..., jax.Array]

    def __call__(self, synthetic: SyntheticSet, keys: jax.Array) -> np.ndarray:
        """Returns the test accuracy for each key, a fraction. Keys `[N]` -> `[N]`."""
        images = jnp.asarray(synthetic.images)
        accuracies = self.train_and_test(
            images.reshape(-1, *images.shape[2:]),
            jnp.asarray(synthetic.labels).reshape(-1),
            normalise(self.dataset.test_images, synthetic.mean, synthetic.std),
            jnp.asarray(self.dataset.test_labels),
            keys,
        )
        return np.asarray(accuracies, np.float64)


def make_evaluator(config: Config, dataset: Dataset, layout: Layout) -> Evaluator:
    """Returns the evaluation of a run.

    Raises:
      ValueError: the network or the augmentation is unknown.
    """
    protocol = make_protocol(
        config.evaluation, dataset_name=dataset.name, network_name=config.network.name
    )
    field = "evaluation" if config.evaluation.network else "network"
    network, execution = make_parts(config, dataset, field, layout)
    train_and_test = jax.jit(
        make_evaluate(protocol, network, execution),
        compiler_options=compiler_options(layout),
    )
    return Evaluator(dataset, protocol, train_and_test)


def evaluate_sets(
    config: Config, evaluator: Evaluator, sets: list[SyntheticSet]
) -> np.ndarray:
    """Returns the accuracies of fresh networks trained on each set, `[E, N]`."""
    logging.info(
        "Evaluating %d set(s) with %d networks each: %s.",
        len(sets),
        config.num_evaluations,
        evaluator.protocol,
    )
    keys = [
        jax.random.split(experiment_keys(config, experiment)[2], config.num_evaluations)
        for experiment in range(len(sets))
    ]
    return np.stack([evaluator(s, k) for s, k in zip(sets, keys, strict=True)])


def make_set(images: np.ndarray, dataset: Dataset) -> SyntheticSet:
    """Returns the images `[C, I, H, W, D]` with what is needed to use them."""
    num_classes, ipc = images.shape[:2]
    labels = np.repeat(np.arange(num_classes, dtype=np.int32)[:, None], ipc, axis=1)
    return SyntheticSet(
        images=np.asarray(images, np.float32),
        labels=labels,
        mean=dataset.mean,
        std=dataset.std,
        class_names=dataset.class_names,
    )


def make_coreset(indices: np.ndarray, dataset: Dataset) -> SyntheticSet:
    """Returns the training images of indices `[C, I]` as a set."""
    images = dataset.train_images[indices]
    images = np.asarray(normalise(images, dataset.mean, dataset.std))
    return make_set(images, dataset).replace(indices=indices)


def compile_method(
    method: Method, execution: Execution
) -> tuple[Callable[..., CondenseState], Callable[..., Any]]:
    """Returns a method's functions over the axis E of experiments, jitted.

    They are `init(store, keys)` and `step(state, store, keys, iteration)` with keys
    `[E]`. A step does not donate its input: that is the state to save when the step
    turns out bad, or is not waited for, and it is no larger than the images.

    Args:
      method: for one experiment.
      execution: how experiments, too, are run.
    """
    layout = execution.layout

    def init(store: ClassStore, keys: jax.Array) -> CondenseState:
        return jax.vmap(lambda key: method.init(store, key))(keys)

    def step(
        state: CondenseState, store: ClassStore, keys: jax.Array, iteration: jax.Array
    ) -> tuple[CondenseState, dict[str, jax.Array]]:
        def one(state: CondenseState, key: jax.Array):
            state, metrics = method.step(state, store, iteration_key(key, iteration))
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(state.images).all()
            return state, {**metrics, "is_finite": finite}

        mine, _ = layout.experiments.part(len(keys))
        mine_state, mine_keys = jax.tree.map(lambda leaf: leaf[mine], (state, keys))
        results = batched(one, execution.network_loop)(mine_state, mine_keys)
        return layout.experiments.gather(results, len(keys))

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # A program has its name.
        def spread(*args: Any) -> Any:
            specs = tuple(
                store_specs(arg) if isinstance(arg, ClassStore) else P() for arg in args
            )
            return layout.spread(function, specs)(*args)

        return jax.jit(spread, compiler_options=compiler_options(layout))

    return compiled(init), compiled(step)


def compile_draws(method: Method) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns what `init(store, keys)` and a step draw, for all experiments, jitted.

    They are `init_draws(store, keys)` and `step_draws(store, keys, iteration)` with
    keys `[E]`, and return offsets `[C, P]`.
    """

    def init_draws(store: ClassStore, keys: jax.Array) -> jax.Array:
        offsets = jax.lax.map(lambda key: method.init_draws(store, key), keys)
        return jnp.moveaxis(offsets, 0, 1).reshape(store.num_classes, -1)

    def step_draws(store: ClassStore, keys: jax.Array, iteration: jax.Array):
        keys = jax.vmap(lambda key: iteration_key(key, iteration))(keys)
        offsets = jax.lax.map(lambda key: method.step_draws(store, key), keys)
        return jnp.moveaxis(offsets, 0, 1).reshape(store.num_classes, -1)

    return jax.jit(init_draws), jax.jit(step_draws)


def iteration_key(key: jax.Array, iteration: jax.Array) -> jax.Array:
    """Returns an experiment's key for an iteration."""
    return jax.random.fold_in(key, iteration)


def experiment_keys(config: Config, experiment: int | jax.Array) -> jax.Array:
    """Returns an experiment's keys for its beginning, its steps, its evaluation."""
    key = jax.random.fold_in(jax.random.key(config.seed), experiment)
    return jax.random.split(key, 3)


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
            self.folder, first=first, total=self.config.iterations, seconds=before
        )
        iterations = range(first, self.config.iterations)
        with metrics, StopSignals() as signals, make_stores(iterations) as stores:
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
                metrics.loss(iteration + 1, np.asarray(out["loss"]))
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
            raise ValueError(
                f"config.iterations must be at least {restored.step}, which "
                f"--workdir={self.folder} has reached, got {self.config.iterations}."
            )
        if restored.meta["dataset"] != self.dataset.checksum():
            raise ValueError(
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
        hosts.on_first(self.checkpointer.wait)

    def _is_evaluated(self, iteration: int) -> bool:
        every = self.config.eval_every
        return bool(every) and iteration > 0 and iteration % every == 0

    def _evaluate(self, state: CondenseState, evaluator: Evaluator) -> np.ndarray:
        """Returns the accuracies `[E, N]` of a state that is saved."""
        with signals_kill():
            images = np.asarray(state.images)
            sets = [make_set(one, self.dataset) for one in images]
            return evaluate_sets(self.config, evaluator, sets)

    def _not_finite(self, iteration: int) -> str:
        return (
            f"the matching loss or the images became NaN or infinite in iteration "
            f"{iteration + 1}; the state before it is saved in {self.folder}. Try a "
            f"smaller config.lr_img than {self.config.lr_img:g}, in another folder."
        )


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

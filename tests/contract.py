"""What every method must do, whoever wrote it, on images of 4 by 4 pixels.

A subclass in a file of `tests/` runs all of it:

    from contract import MethodContract

    class TestMine(MethodContract):
        make = staticmethod(my_method.make)
        fields = {"lr_img": 1.0}
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers
from jax.flatten_util import ravel_pytree
from toy import Tiny, random_dataset

from dc_jax.base import CondenseState, make_labels
from dc_jax.data.store import ClassStore, make_store
from dc_jax.data.stream import HostStore
from dc_jax.devices.backend import Execution
from dc_jax.devices.layout import ONE_DEVICE, Layout, make_layout
from dc_jax.errors import UserError
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.run.compiled import compile_draws, compile_method

CLASSES, SHAPE, IPC, EXPERIMENTS = 3, (4, 4, 1), 2, 2
# An iteration draws a part of the first; the last has fewer than are drawn at once.
COUNTS = (400, 11, 5)
DATASET = random_dataset(COUNTS, SHAPE)
INIT_KEYS, STEP_KEYS = jax.random.split(jax.random.key(0), (2, EXPERIMENTS))


class Run(NamedTuple):
    """A few iterations.

    Attributes:
      step: the compiled step.
      states: before the first iteration, and after each.
      metrics: of each iteration.
      num_images: that were on the devices in each iteration.
      num_traces: how often the step was traced.
    """

    step: Callable[..., Any]
    states: list[CondenseState]
    metrics: list[dict[str, Any]]
    num_images: list[int]
    num_traces: int


@pytest.mark.usefixtures("quick_compile")
class MethodContract:
    """The tests of one method.

    Attributes:
      make: `(config, network, execution) -> Method`.
      fields: of the config, where the method needs others.
      network: what it is run with.
      takes_differing_ipc: whether classes may have different numbers of images.
      is_by_class: whether a class becomes what it would without the others.
      iterations: of the undisturbed run.
      falls_to: the fraction of the first losses that the last must be below.
    """

    make: Callable[..., Any]
    fields: dict[str, Any] = {}
    network = Tiny(CLASSES)
    takes_differing_ipc = True
    is_by_class = True
    iterations = 30
    falls_to = 0.8

    @classmethod
    def config(cls, **changes):
        defaults = {
            "ipc": IPC,
            "iterations": cls.iterations,
            "outer_loop": 1,
            "inner_loop": 1,
            "num_experiments": EXPERIMENTS,
            # Two devices do not share them evenly.
            "num_networks": 3,
            "batch_real": 8,
            "batch_train": 4,
            "mesh.net": None,
            "mesh.classes": None,
        }
        return run_helpers.tiny_config(**defaults | cls.fields | changes)

    @classmethod
    def make_method(cls, loop="map", layout=ONE_DEVICE, class_loop="map", **changes):
        execution = Execution(loop, 8, layout, class_loop)
        method = cls.make(cls.config(**changes), cls.network, execution)
        return method, execution

    @classmethod
    def make_layout(cls, **mesh) -> Layout:
        """Of as many devices as the mesh needs; experiments share no devices."""
        config = cls.config(
            num_experiments=1, **{f"mesh.{axis}": size for axis, size in mesh.items()}
        )
        return make_layout(config, CLASSES, jax.devices())

    @classmethod
    def experts(cls) -> np.ndarray | None:
        """Networks for a method that needs experts: a random walk in place of training.

        Shape `[3, S, P]`, with S the number of the method's snapshots.
        """
        method, _ = cls.make_method()
        if not method.snapshots:
            return None
        walks = []
        for seed in range(3):
            variables = cls.network.init(jax.random.key(seed), jnp.zeros((1, *SHAPE)))
            first, _ = ravel_pytree(variables)
            rng = np.random.default_rng(seed)
            steps = 0.1 * rng.normal(size=(len(method.snapshots), len(first)))
            walks.append(np.asarray(first) + np.cumsum(steps, axis=0))
        return np.array(walks, np.float32)

    @classmethod
    def make_store(cls, layout=ONE_DEVICE) -> ClassStore:
        """All that a step of the method reads."""
        experts = cls.experts()
        placed = None if experts is None else layout.put(experts)
        return make_store(DATASET, layout).replace(experts=placed)

    @classmethod
    def run(
        cls, iterations=2, loop="map", layout=ONE_DEVICE, *, stream=False, **changes
    ) -> Run:
        """Runs both experiments from the beginning."""
        traces = []
        method, execution = cls.make_method(loop, layout, **changes)

        def counting(*args):
            traces.append(args)
            return method.step(*args)

        init, step = compile_method(method._replace(step=counting), execution)
        whole, host = cls.make_store(layout), HostStore(DATASET, layout)
        one_device, _ = cls.make_method(loop, **changes)
        index = host.index.replace(experts=cls.experts())
        draws = compile_draws(one_device, index) if stream else None

        def load(offsets):
            return host.load(offsets).replace(experts=whole.experts)

        store = load(draws[0](INIT_KEYS)) if stream else whole
        states, metrics, sizes = [init(store, INIT_KEYS)], [], []
        for iteration in map(jnp.int32, range(iterations)):
            store = load(draws[1](STEP_KEYS, iteration)) if stream else whole
            state, out = step(states[-1], store, STEP_KEYS, iteration)
            states.append(state)
            metrics.append(out)
            sizes.append(len(store.images))
        return Run(step, states, metrics, sizes, len(traces))

    @pytest.fixture(scope="class")
    @classmethod
    def whole(cls):
        """The undisturbed run, on one device and with all images in memory."""
        return cls.run(cls.iterations)

    @pytest.mark.parametrize("loop", ["map", "vmap"])
    def test_a_step_keeps_structure_shapes_and_dtypes(self, loop):
        init, step = compile_method(*self.make_method(loop))
        store = self.make_store()
        before = jax.eval_shape(init, store, INIT_KEYS)
        after, metrics = jax.eval_shape(step, before, store, STEP_KEYS, jnp.int32(0))
        chex.assert_trees_all_equal_structs(before, after)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            # A weak type would compile the step a second time.
            assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
        assert before.images.shape == (EXPERIMENTS, CLASSES, IPC, *SHAPE)
        assert before.images.dtype == jnp.float32
        for leaf in jax.tree.leaves((metrics["loss"], metrics.get("layers"))):
            assert (leaf.shape, leaf.dtype) == ((EXPERIMENTS,), jnp.float32)

    def test_all_iterations_are_one_program(self, whole):
        assert whole.num_traces == 1

    def test_the_loss_falls(self, whole):
        losses = np.stack([metrics["loss"] for metrics in whole.metrics])
        assert (losses[-5:].mean(0) < self.falls_to * losses[:5].mean(0)).all()
        assert all(metrics["is_finite"].all() for metrics in whole.metrics)

    def test_the_loss_is_the_sum_of_its_layers(self, whole):
        for metrics in whole.metrics[:2]:
            layers = metrics.get("layers", {"all": metrics["loss"]})
            np.testing.assert_allclose(sum(layers.values()), metrics["loss"], rtol=1e-5)

    def test_keys_alone_decide(self, whole):
        """A step repeats itself; experiments and iterations differ."""
        first, store = whole.states[0], self.make_store()
        again, _ = whole.step(first, store, STEP_KEYS, jnp.int32(0))
        chex.assert_trees_all_equal(again, whole.states[1])
        other, _ = whole.step(first, store, STEP_KEYS, jnp.int32(1))
        assert np.abs(other.images - again.images).max() > 1e-5
        assert (first.images[0] != first.images[1]).any()

    def test_each_experiment_tells_whether_it_is_finite(self, whole):
        state = whole.states[0]
        broken = state.replace(images=state.images.at[1, 0, 0, 0, 0, 0].set(jnp.nan))
        after, metrics = whole.step(broken, self.make_store(), STEP_KEYS, 0)
        assert metrics["is_finite"].tolist() == [True, False]
        np.testing.assert_array_equal(after.images[0], whole.states[1].images[0])

    def test_vmap_of_networks_and_experiments_equals_map(self, whole):
        self.check_same(self.run(loop="vmap"), whole, rtol=1e-3)

    @pytest.mark.parametrize(
        "loop", [pytest.param("vmap", marks=pytest.mark.slow), "chunk:2"]
    )
    def test_classes_at_once_equal_map(self, whole, loop):
        self.check_same(self.run(class_loop=loop), whole, rtol=1e-3)

    @pytest.mark.slow
    @pytest.mark.parametrize("loop", ["vmap", "chunk:2"])
    def test_classes_at_once_equal_map_on_several_devices(self, whole, loop):
        layout = self.make_layout(net=2, classes=2)
        run = self.run(loop=loop, layout=layout, class_loop=loop)
        self.check_same(run, whole, rtol=1e-3)

    @pytest.mark.parametrize(
        "mesh",
        [
            {"net": 2, "classes": 2},
            pytest.param({"net": 1, "classes": 2}, marks=pytest.mark.slow),
            pytest.param({"net": 2, "classes": 1}, marks=pytest.mark.slow),
            pytest.param({"net": 1, "classes": 4}, marks=pytest.mark.slow),
        ],
        ids=str,
    )
    def test_several_devices_equal_one(self, whole, mesh):
        self.check_same(self.run(layout=self.make_layout(**mesh)), whole)

    def test_streamed_is_in_memory_bit_for_bit(self, whole):
        streamed = self.run(stream=True)
        self.check_equal(streamed, whole)
        # The same shapes in each iteration, and fewer images.
        assert len(set(streamed.num_images)) == 1
        assert streamed.num_images[0] < CLASSES * max(COUNTS)

    @pytest.mark.slow
    def test_streamed_to_several_devices_is_in_memory_bit_for_bit(self):
        layout = self.make_layout(net=2, classes=2)
        self.check_equal(self.run(layout=layout, stream=True), self.run(layout=layout))

    def test_offsets_are_of_images_that_there_are(self):
        method, _ = self.make_method()
        host = HostStore(DATASET)
        index = host.index.replace(experts=self.experts())
        store = jax.tree.map(jnp.asarray, index)
        state, drawn = jax.eval_shape(method.init, store, INIT_KEYS[0])
        *_, offsets = jax.eval_shape(method.step, state, store, STEP_KEYS[0])
        for leaf in jax.tree.leaves((drawn, offsets)):
            assert leaf.dtype == jnp.int32
            assert leaf.shape[-2] == CLASSES
        init_draws, step_draws = compile_draws(method, index)
        for leaf in (init_draws(INIT_KEYS), step_draws(STEP_KEYS, jnp.int32(0))):
            assert ((leaf >= 0) & (leaf < np.array(COUNTS)[:, None])).all()

    def test_resumed_is_uninterrupted_bit_for_bit(self, whole, tmp_path):
        Checkpointer(tmp_path).save(1, whole.states[1], {})
        state = Checkpointer(tmp_path).restore(whole.states[0]).state
        for iteration in (1, 2):
            state, metrics = whole.step(
                state, self.make_store(), STEP_KEYS, jnp.int32(iteration)
            )
            chex.assert_trees_all_equal(state, whole.states[iteration + 1])
            chex.assert_trees_all_equal(metrics, whole.metrics[iteration])

    def test_blank_slots_stay_blank(self, whole):
        """And a class begins, and maybe ends, as if all had as many images as it."""
        ipc = (IPC, IPC + 1, 1)
        if not self.takes_differing_ipc:
            with pytest.raises(UserError, match=r"config\.ipc must be one number"):
                self.make_method(ipc=ipc)
            return
        run = self.run(ipc=ipc)
        is_image = make_labels(ipc) >= 0
        first, *_, last = (np.asarray(state.images) for state in run.states)
        assert not first[:, ~is_image].any()
        assert not last[:, ~is_image].any()
        changes = np.abs(last - first).max(axis=(-3, -2, -1))[:, is_image]
        assert (changes > 1e-5).all()
        np.testing.assert_array_equal(first[:, 0, :IPC], whole.states[0].images[:, 0])
        if self.is_by_class:
            expected = whole.states[2].images[:, 0]
            np.testing.assert_allclose(last[:, 0, :IPC], expected, rtol=1e-4, atol=1e-5)

    @staticmethod
    def check_same(run, whole, rtol=1e-4):
        """All that a run has is that of the beginning of another, but for rounding."""
        states = whole.states[: len(run.states)]
        metrics = whole.metrics[: len(run.metrics)]
        chex.assert_trees_all_close(
            (run.states, run.metrics), (states, metrics), rtol=rtol, atol=1e-5
        )

    @staticmethod
    def check_equal(run, whole):
        """All that a run has is that of the beginning of another, to the last bit."""
        states = whole.states[: len(run.states)]
        metrics = whole.metrics[: len(run.metrics)]
        chex.assert_trees_all_equal((run.states, run.metrics), (states, metrics))

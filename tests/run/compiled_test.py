"""Tests of the programs of a run and of the keys they are called with."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers
import toy_run

from dc_jax.data.sources import load_dataset
from dc_jax.devices.backend import Execution
from dc_jax.devices.layout import ONE_DEVICE, make_layout
from dc_jax.evaluation.evaluator import accuracies
from dc_jax.run import compiled
from dc_jax.run.evaluation import count_sets, make_evaluator
from dc_jax.run.setup import make_setup
from dc_jax.sets.make import make_set

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.mark.slow
def test_compiled_step_is_the_methods_step_with_the_iterations_key():
    method = toy_run.toy_method()
    keys = jax.random.split(jax.random.key(5), 2)
    for how in ("vmap", "map"):
        init, step = compiled.compile_method(method, Execution(how, slice_size=1))
        state, metrics = step(init(None, keys), None, keys, jnp.int32(7))
        assert metrics["is_finite"].tolist() == [True, True]
        for experiment in range(2):
            key = keys[experiment]
            first, _ = method.init(None, key)
            expected, expected_metrics, _ = method.step(
                first, None, jax.random.fold_in(key, 7)
            )
            np.testing.assert_allclose(
                state.images[experiment], expected.images, rtol=1e-5, atol=1e-6
            )
            np.testing.assert_allclose(
                metrics["loss"][experiment], expected_metrics["loss"], rtol=1e-5
            )


@pytest.mark.slow
def test_experiments_on_several_devices_are_those_on_one():
    """Two devices do not share three experiments evenly."""
    config = run_helpers.tiny_config(num_experiments=3, **{"mesh.net": 2})
    several = make_layout(config, 10, jax.devices())
    assert several.experiments.size == 2
    keys, results = jax.random.split(jax.random.key(5), 3), []
    for layout in (ONE_DEVICE, several):
        execution = Execution("map", 1, layout)
        init, step = compiled.compile_method(toy_run.toy_method(), execution)
        results.append(step(init(None, keys), None, keys, jnp.int32(7)))
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)
    assert results[1][0].images.shape == (3, *toy_run.SHAPE)


def test_every_evaluated_network_has_its_own_key(toy):
    config = run_helpers.tiny_config(num_evaluations=3)
    dataset = load_dataset("digits")
    synthetic = make_set(np.zeros(toy_run.SHAPE), dataset)
    evaluator = make_evaluator(make_setup(config, dataset))
    results = accuracies(count_sets(config, evaluator, [synthetic, synthetic]))
    assert results.shape == (2, 3)
    assert len(np.unique(results)) == 6
    # More sets or networks leave the first as they are.
    again = accuracies(count_sets(config, evaluator, [synthetic]))
    np.testing.assert_array_equal(again, results[:1])

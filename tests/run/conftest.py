"""What tests of runs share: runs in which only the host's side is real."""

import jax
import jax.numpy as jnp
import pytest
import toy
import toy_run

from dc_jax.run import runner, stores
from dc_jax.run.set_trainer import Evaluator


class _ToyEvaluator(Evaluator):
    """Has nothing to compile or to measure."""

    def compile(self, synthetic, keys):
        pass

    def measure(self, synthetic, keys):
        return 0.0


@pytest.fixture(name="toy")
def _toy(monkeypatch):
    """Replaces method and evaluation; the list gets an element for each evaluation."""
    evaluations = []

    def make_toy_evaluator(setup):
        def train_and_test(data, test_images, test_labels, keys):
            images, _ = data
            del test_images, test_labels
            evaluations.append(images)
            uniform = jax.vmap(jax.random.uniform)(keys)
            accuracy = 0.5 * uniform + 0.5 * jax.nn.sigmoid(images.mean())
            rows = jnp.stack([accuracy, 1 - accuracy], axis=-1)
            return jnp.stack([rows, rows[:, ::-1]], axis=-1)

        dataset, programs = setup.dataset, toy.as_programs(train_and_test)
        return _ToyEvaluator(
            dataset.test_images, dataset.test_labels, setup.protocol, programs
        )

    monkeypatch.setattr(runner, "make_evaluator", make_toy_evaluator)
    for module in (runner, stores):
        monkeypatch.setattr(module, "make_method", lambda *_: toy_run.toy_method())
    return evaluations

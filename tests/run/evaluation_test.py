"""The networks that evaluate sets, and their keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers

from dc_jax.base import SyntheticSet
from dc_jax.run import compiled, evaluation
from dc_jax.run.setup import choose_evaluation_network


class _NotingEvaluator:
    """Notes its keys and evaluates nothing."""

    protocol = None

    def __init__(self):
        self.keys, self.own_keys = [], []

    def compile(self, synthetic, keys):
        pass

    def epochs(self, num):
        return num

    def count(self, synthetic, keys, progress):
        self.keys.append(keys)
        return np.ones((len(keys), 1, 1))

    def count_own(self, synthetic, keys):
        self.own_keys.append(keys)
        return np.ones((len(keys), 1, 1))


def _children(keys, num):
    return jax.vmap(lambda key: jax.random.split(key, num))(keys)


def test_no_key_is_used_twice():
    num_experiments, num = 50, 300
    sets = num_experiments * [
        SyntheticSet(*4 * [None], class_names=(), learning_rates=np.ones((1, 1)))
    ]
    used = []
    for seed in (0, 1):
        config = run_helpers.tiny_config(seed=seed, num_evaluations=num)
        noting = _NotingEvaluator()
        evaluation.evaluate_sets(config, noting, sets)
        keys, own_keys = map(jnp.concatenate, (noting.keys, noting.own_keys))
        assert keys.shape == own_keys.shape == (num_experiments * num,)
        of_random = _NotingEvaluator()
        # Those of random images, whose sets are further experiments.
        evaluation.count_sets(config, of_random, sets[:5], first=num_experiments, num=1)
        used.append(jnp.concatenate(of_random.keys))
        # A network's key is split once more: for its beginning and its training.
        used += [keys, own_keys, _children(keys, 3), _children(own_keys, 2)]
        of_experiments = jnp.stack(
            [compiled.experiment_keys(config, i) for i in range(num_experiments)]
        )
        used += [of_experiments, _children(of_experiments[:, 1], num)]
        iterations = [compiled.iteration_key(of_experiments[0, 1], i) for i in (0, 9)]
        assert (jnp.stack(iterations) == used[-1][0, [0, 9]]).all()
    data = np.concatenate([np.reshape(jax.random.key_data(k), (-1, 2)) for k in used])
    assert len(np.unique(data, axis=0)) == len(data)


@pytest.mark.parametrize(
    ("condensed", "named", "method", "expected"),
    [
        ("ConvNet", None, "dc", "ConvNet"),
        ("ConvNetBN", None, "dc", "ConvNet"),
        ("ConvNetBN", "MLP", "dc", "MLP"),
        ("ConvNetBN", "ConvNetBN", "dc", "ConvNetBN"),
        # The whole training set has enough images for batch norm.
        ("ConvNetBN", None, "whole", "ConvNetBN"),
    ],
)
def test_the_network_that_evaluates(condensed, named, method, expected):
    config = run_helpers.tiny_config(
        **{"network.name": condensed, "evaluation.network": named, "method": method}
    )
    assert choose_evaluation_network(config) == expected

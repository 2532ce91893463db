"""Networks are trained some epochs in a call; they are those of one call."""

import dataclasses
import time

import jax
import numpy as np
import pytest
import toy

from dc_jax.devices.backend import Execution
from dc_jax.evaluation.evaluator import make_programs, train_by_protocol
from dc_jax.evaluation.protocol import Protocol
from dc_jax.networks import make_network
from dc_jax.networks.convolution import make_conv_fn
from dc_jax.progress import Progress
from dc_jax.run import set_trainer
from dc_jax.run.compiled import compile_evaluation
from dc_jax.run.set_trainer import Evaluator, Pace
from dc_jax.sets.make import make_set

_DATASET = toy.random_dataset([6, 6, 6], (8, 8, 1))


def _make(augmentation, loop, name=None):
    """A protocol of nine epochs and a network: its programs, jitted and not."""
    protocol = Protocol("Tiny", 8, augmentation, 0.05, 0.9, 5e-4, 4)
    if augmentation == "strong":
        how = {"augmentation": "none", "schedule": "cosine", "cutmix": 0.5}
        how |= {"optimiser": "adamw", "lr": 1e-3}
        protocol = dataclasses.replace(protocol, **how)
    network = toy.Tiny(3)
    if name:
        network = make_network(name, 3, (8, 8, 1), make_conv_fn("winograd"))
    execution = Execution(loop, slice_size=8)
    training = train_by_protocol(protocol, network, execution)
    programs = compile_evaluation(training, network, execution)
    return protocol, programs, make_programs(training, network, execution)


class _Steady(Pace):
    """Has always the same number of epochs in a call."""

    def __init__(self, epochs):
        self.fixed = epochs

    def calls(self, epochs):
        for done in range(0, epochs, self.fixed):
            yield done, min(done + self.fixed, epochs)


@pytest.mark.parametrize(
    ("augmentation", "loop", "at_once", "name"),
    [
        ("none", "map", 1, None),
        pytest.param("strong", "map", 1, None, marks=pytest.mark.slow),
        pytest.param("none", "vmap", None, None, marks=pytest.mark.slow),
        pytest.param("none", "map", 1, "ConvNetD1W8", marks=pytest.mark.slow),
        pytest.param("noise", "vmap", None, "ConvNetD1W8", marks=pytest.mark.slow),
    ],
)
def test_in_several_calls_a_network_is_the_same_bit_for_bit(
    augmentation, loop, at_once, name
):
    protocol, programs, pure = _make(augmentation, loop, name)
    synthetic = make_set(_DATASET.train_images.reshape(3, 6, 8, 8, 1) / 255, _DATASET)
    keys = jax.random.split(jax.random.key(0), 2)
    data = set_trainer._by_protocol(synthetic)

    def train(keys):
        states = pure.init(data, keys)
        for phase in pure.phases:
            states = phase.train(phase.start(states), data, keys, 0, phase.epochs)
        return states

    whole, trained = jax.jit(train), []
    expected = [whole(keys[i : i + (at_once or 2)]) for i in range(0, 2, at_once or 2)]

    def note(states, *tests):
        trained.append(states)
        return programs.test(states, *tests)

    counts = []
    for epochs in (1, 2, 100):
        evaluator = Evaluator(
            _DATASET.test_images,
            _DATASET.test_labels,
            protocol,
            programs._replace(test=note),
            at_once=at_once,
            pace=_Steady(epochs),
        )
        with Progress("Evaluating", evaluator.epochs(2)) as progress:
            counts.append(evaluator.count(synthetic, keys, progress))
        assert progress._done == 2 * 9
        for ours, theirs in zip(trained, expected, strict=True):
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        trained.clear()
        np.testing.assert_array_equal(counts[0], counts[-1])
    # Whatever the number of epochs, a program is compiled once.
    sizes = {phase.train._cache_size() for phase in programs.phases}
    assert sizes == {1}
    assert counts[0].sum() == 2 * 18


def test_what_is_compiled_ahead_is_not_compiled_again(monkeypatch, caplog):
    protocol, programs, _ = _make("none", "map")
    tests = (_DATASET.test_images, _DATASET.test_labels)
    evaluator = Evaluator(*tests, protocol, programs, at_once=1)
    synthetic = make_set(np.zeros((3, 1, 8, 8, 1)), _DATASET)
    keys = jax.random.split(jax.random.key(0), 2)
    evaluator.compile(synthetic, keys)
    assert 0 < evaluator.measure(synthetic, keys) < 60
    with jax.log_compiles(), caplog.at_level("WARNING"):
        evaluator.count(synthetic, keys)
    for name in ("init", "start", "train", "test"):
        assert f"Compiling jit({name})" not in caplog.text


def test_a_call_takes_about_a_second(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pace, calls = Pace(), []
    for done, until in pace.calls(500):
        calls.append(until - done)
        clock[0] += 0.0099 * (until - done)
    assert calls[:5] == [1, 4, 16, 64, 101]
    assert max(calls) == 101
    assert sum(calls) == 500
    # Slow epochs come one by one, also in the next training.
    calls.clear()
    for done, until in pace.calls(201):
        calls.append(until - done)
        clock[0] += 3.0 * (until - done)
    assert calls == [101] + 100 * [1]


@pytest.mark.parametrize(
    ("at_once", "sizes"), [(None, [5]), (1, [1] * 5), (2, [2, 2, 2]), (8, [8])]
)
def test_networks_are_evaluated_in_groups_of_one_size(at_once, sizes):
    seen = []

    def program(data, test_images, test_labels, keys):
        seen.append(len(keys))
        return jax.vmap(jax.random.uniform)(keys)

    tests = (_DATASET.test_images, _DATASET.test_labels)
    evaluator = Evaluator(*tests, None, toy.as_programs(program), at_once=at_once)
    keys = jax.random.split(jax.random.key(0), 5)
    results = evaluator.count(make_set(np.zeros((3, 1, 8, 8, 1)), _DATASET), keys)
    np.testing.assert_array_equal(results, jax.vmap(jax.random.uniform)(keys))
    assert seen == sizes

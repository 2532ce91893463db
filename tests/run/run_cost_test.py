"""What a run will cost is told once, from the first iterations."""

import logging
import time

import numpy as np
import pytest

from dc_jax.run.metrics import Metrics


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes the metrics of a run, without the thread of its bar."""

    def metrics(total, **fields):
        made = Metrics(tmp_path, first=0, total=total, **fields)
        monkeypatch.setattr(made._bar, "_is_told", False)
        return made

    return metrics


def _count(metrics, clock, seconds, num, caplog):
    """Returns what is told of the cost in so many iterations."""
    with caplog.at_level(logging.INFO, logger="absl"), metrics:
        for iteration in range(1, num + 1):
            clock[0] += seconds
            metrics.loss(iteration, np.ones(1))
    return [line for line in caplog.messages if "The run takes" in line]


def test_a_long_run(make, clock, caplog):
    evaluating = {"evaluating": 300.0, "evaluating random images": 60.0}
    metrics = make(1000, evaluating=evaluating)
    clock[0] = 88.0  # It is compiled.
    metrics.begin()
    lines = _count(metrics, clock, 2.1, 20, caplog)
    text = (
        "The run takes about 41 minutes: 35 minutes condensing, 5 minutes evaluating, "
        "60 seconds evaluating random images."
    )
    assert lines == [text]


def test_quick_iterations_are_measured_for_a_while(make, clock, caplog):
    metrics = make(1000)
    assert _count(metrics, clock, 0.1, 19, caplog) == []
    metrics = make(1000)
    (line,) = _count(metrics, clock, 0.1, 21, caplog)
    assert "about 2 minutes: 2 minutes condensing" in line


def test_a_short_run_is_not_told_of(make, clock, caplog):
    metrics = make(4, evaluating={"evaluating": 1.0})
    assert _count(metrics, clock, 2.0, 4, caplog) == []


def test_the_minutes_of_a_run_limit_what_it_takes(make, clock, caplog):
    metrics = make(1000, evaluating={"evaluating": 300.0}, seconds=55.0, minutes=3)
    (line,) = _count(metrics, clock, 5.0, 1, caplog)
    assert "about 7 minutes: 2 minutes condensing, 5 minutes evaluating" in line

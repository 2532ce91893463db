"""What a run will cost is told once, from the first iterations."""

import logging
import time

import numpy as np
import pytest

from dc_jax.run.cost import Cost
from dc_jax.run.metrics import Metrics


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def _count(cost, clock, seconds, num, caplog):
    with caplog.at_level(logging.INFO, logger="absl"):
        for _ in range(num):
            clock[0] += seconds
            cost.count()
    return caplog.messages


def test_a_long_run(clock, caplog):
    cost = Cost(1000, {"evaluating": 300.0, "evaluating random images": 60.0})
    clock[0] = 88.0  # It is compiled.
    cost.begin()
    lines = _count(cost, clock, 2.1, 20, caplog)
    text = (
        "The run takes about 41 minutes: 35 minutes condensing, 5 minutes evaluating, "
        "60 seconds evaluating random images."
    )
    assert lines == [text]


def test_quick_iterations_are_measured_for_a_while(clock, caplog):
    cost = Cost(1000, {})
    assert _count(cost, clock, 0.1, 19, caplog) == []
    (line,) = _count(cost, clock, 0.1, 2, caplog)
    assert "about 2 minutes: 2 minutes condensing" in line


def test_a_short_run_is_not_told_of(clock, caplog):
    assert _count(Cost(4, {"evaluating": 1.0}), clock, 2.0, 4, caplog) == []


def test_condensing_takes_no_longer_than_its_limit(clock, caplog):
    cost = Cost(1000, {"evaluating": 300.0}, limit=125.0)
    (line,) = _count(cost, clock, 5.0, 1, caplog)
    assert "about 7 minutes: 2 minutes condensing, 5 minutes evaluating" in line


def test_the_minutes_of_a_run_limit_what_it_takes(tmp_path, clock, caplog):
    evaluating = {"evaluating": 300.0}
    fields = {"first": 10, "total": 1000, "evaluating": evaluating}
    metrics = Metrics(tmp_path, **fields, seconds=55.0, minutes=3)
    clock[0] = 5.0
    with caplog.at_level(logging.INFO, logger="absl"), metrics:
        metrics.loss(11, np.ones(1))
    assert any(": 2 minutes condensing, 5 minutes eval" in m for m in caplog.messages)

"""How far a piece of work is: what is told, and when."""

import logging
import time

import pytest

from dc_jax import progress
from dc_jax.progress import Progress, describe_seconds


@pytest.fixture
def quick(monkeypatch):
    """Tells at once, and often."""
    monkeypatch.setattr(progress, "_QUIET", 0.0)
    monkeypatch.setattr(progress, "_FIRST_GAP", 0.1)


def test_a_log_gets_lines_that_are_not_too_many(quick, caplog):
    caplog.set_level(logging.INFO, logger="absl")
    with Progress("Working", 4, unit="parts") as work:
        work.advance(2, note="half")
        with Progress("Deeper"):
            time.sleep(0.7)
        time.sleep(0.5)
    lines = caplog.messages
    assert lines[0] == "Deeper: after 0 seconds."
    assert lines[-1].startswith("Working: 2 of 4 parts after 1 second, about 1 second ")
    assert lines[-1].endswith(" left, half.")
    assert 2 <= len(lines) <= 8


def test_short_work_is_not_told_of(capfd, caplog):
    with caplog.at_level(logging.INFO, logger="absl"), Progress("Working", 4) as work:
        work.advance(4)
        time.sleep(0.3)
    assert not caplog.messages
    assert capfd.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(quick, monkeypatch, capfd):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress("Working", 4, unit="parts") as work:
        work.advance(1)
        time.sleep(0.7)
    out = capfd.readouterr().err
    assert "Working:  25%|" in out
    assert "1/4 parts, " in out


def test_the_time_left_is_that_since_the_restart(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    work = Progress("Working", 10, first=2)
    assert work.seconds_left is None
    clock[0] = 100.0
    work.advance()
    work.restart()
    assert work.seconds_left is None
    work.advance(2)
    clock[0] = 104.0
    assert work.seconds_left == 10.0


@pytest.mark.parametrize(("passed", "left"), [(4.0, 5.0), (10.0, 0.0)])
def test_no_more_time_is_left_than_the_limit(monkeypatch, passed, left):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    work = Progress("Working", 10, limit=9.0)
    work.advance(2)
    clock[0] = passed
    assert work.seconds_left == left


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 seconds"),
        (1, "1 second"),
        (89, "89 seconds"),
        (100, "2 minutes"),
        (2400, "40 minutes"),
        (12600, "3.5 hours"),
        (36000, "10 hours"),
        (200000, "2.3 days"),
    ],
)
def test_times_in_words(seconds, text):
    assert describe_seconds(seconds) == text

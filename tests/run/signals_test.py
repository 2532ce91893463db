"""What a signal does while nothing can be saved, and when a terminal closes."""

import os
import signal

import jax.numpy as jnp
import pytest
from data_helpers import run_python

from dc_jax.run.signals import StopSignals, deferred, ends_at_once, tell_saved

# Children of one process, since each new one would import JAX for seconds. A child says
# that it is ready, and then is in C, where Python's handlers are not called.
_CHILDREN = """
import ctypes, os, signal, sys
from dc_jax.run.command_line import log_to_terminal
from dc_jax.run.signals import StopSignals, ends_at_once
log_to_terminal()
sleep = ctypes.CDLL(None).sleep
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with ends_at_once(lambda: "Outer."), StopSignals() as signals:
            os.kill(os.getpid(), number)
            assert signals.number == number
            with ends_at_once(lambda: "The set is saved."):
                os.write(writer, b"x")
                for _ in range(20):
                    sleep(1)
        os._exit(1)
    os.read(reader, 1)
    os.kill(child, number)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + number, status
"""


def test_a_signal_ends_the_process_with_one_line():
    output = run_python(_CHILDREN)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        assert f"Stopped by {name}. The set is saved." in output
    assert "Outer" not in output
    assert "Traceback" not in output
    assert len(output.strip().splitlines()) == 3


# Before JAX is imported: what `begin` does while a command starts.
_STARTING = """
import os, signal, sys, time
import dc_jax.main, dc_jax.report.__main__
from dc_jax.run.command_line import begin
assert "jax" not in sys.modules
numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
begin("Nothing was begun.")
assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
signal.signal(signal.SIGHUP, signal.SIG_DFL)
begin("Nothing was begun.")
for number in numbers:
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), number)
        time.sleep(20)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + number, status
"""


def test_a_signal_while_a_command_starts_is_told():
    output = run_python(_STARTING)
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    lines = [f"Stopped by {name}. Nothing was begun." for name in names]
    assert output.splitlines() == lines


def test_all_is_as_it_was_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)]
    with ends_at_once(lambda: "Nothing is saved."):
        assert signal.getsignal(signal.SIGINT) != before[0]
        assert signal.set_wakeup_fd(-1) >= 0
    assert [
        signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)
    ] == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("is_deaf", [False, True])
def test_the_end_of_a_terminal_stops_a_run_unless_nohup_forbids_it(is_deaf):
    handler = signal.SIG_IGN if is_deaf else signal.SIG_DFL
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.number == (None if is_deaf else signal.SIGHUP)
            assert signals.wait(jnp.zeros(2)) == is_deaf
        assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_short_work_is_ended_before_a_signal_acts():
    done = []
    before = signal.signal(signal.SIGTERM, lambda *_: done.append("told"))
    try:
        with deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("saved")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done == ["saved", "told"]


def test_what_is_saved_is_told():
    assert "Nothing is saved yet" in tell_saved(0, "runs/digits")
    assert "Iteration 5 is saved in runs/digits" in tell_saved(5, "runs/digits")

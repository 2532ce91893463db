"""Two processes of two devices each, against one process of one device."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import run_helpers

# Of all networks an MLP compiles fastest.
_FAST = {"network.name": "MLP", "outer_loop": 1, "patience": 200}
_FAST["evaluation.random_baseline"] = True
_LONG = 400
# May fall on the other side.
_ONE_TEST_IMAGE = 1.01 / 360


def _start(folder, fields, num_devices, flags=()):
    # The split of devices is left to the program.
    fields = {name: v for name, v in fields.items() if not name.startswith("mesh.")}
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "dc_jax.main", "--config=configs/digits.py"),
            *(f"--config.{name}={value}" for name, value in fields.items()),
            *(f"--workdir={folder}", *flags),
        ],
        cwd=run_helpers.ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(num_devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _start_two(folder, flags=(), **changes):
    """Starts both; the second has a workdir of its own, which should stay unused."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    fields = run_helpers.TINY | _FAST | changes
    fields |= {"distributed": True, "coordinator_address": address, "num_processes": 2}
    return [
        _start(path, fields | {"process_id": i}, 2, flags)
        for i, path in enumerate((folder, folder.with_name("unused")))
    ]


def _finish(processes):
    """Returns the exit codes and what was printed, but for lines of Gloo."""
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    # Its threads write into one another's lines.
    lines = [
        [line for line in output.splitlines() if not re.search("Gloo|peer ranks", line)]
        for output in outputs
    ]
    return [process.returncode for process in processes], lines


def _run_two(folder, **changes):
    """Returns what each printed; takes what `_start_two` does."""
    codes, lines = _finish(_start_two(folder, **changes))
    assert codes == [0, 0], lines
    assert not folder.with_name("unused").exists()
    return lines


def _run_one(folder, **changes):
    process = _start(folder, run_helpers.TINY | _FAST | changes, num_devices=1)
    codes, lines = _finish([process])
    assert codes == [0], lines
    return lines[0]


def _fail_two(folder, message, **changes):
    codes, lines = _finish(_start_two(folder, **changes))
    assert codes == [1, 1], lines
    assert not folder.with_name("unused").exists()
    assert lines[0][-1] == lines[1][0]
    assert message in lines[0][-1]
    assert len(lines[1]) == 1


def _assert_same(folder, expected):
    ours, theirs = map(run_helpers.load_images, (folder, expected))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    results = [json.loads((f / "result.json").read_text()) for f in (folder, expected)]
    for parts in (results, [result["random"] for result in results]):
        np.testing.assert_allclose(
            *(part["accuracies"] for part in parts), atol=_ONE_TEST_IMAGE
        )


def _check_continued(lines, iteration):
    # Lines begin with the time.
    text = f" Continuing after iteration {iteration}."
    assert any(line.endswith(text) for line in lines), lines


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The folder of a run by one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    _run_one(folder)
    return folder


@pytest.mark.slow
def test_two_processes_equal_one(one, tmp_path):
    first, second = _run_two(tmp_path / "run")
    _assert_same(tmp_path / "run", one)
    assert any("4 cpu devices" in line for line in first)
    assert second == []


@pytest.mark.slow
def test_two_processes_end_together_once_their_minutes_are_over(tmp_path):
    _run_two(tmp_path / "run", iterations=_LONG, minutes=0)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["iterations"], "stopped" in result) == (1, True)


@pytest.mark.slow
def test_an_error_before_the_run_ends_both_with_a_line(one, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text((one / "config.json").read_text())
    (tmp_path / "run" / "synthetic_set.npz").touch()
    _fail_two(tmp_path / "run", "holds a run with config.seed = 0, not 1", seed=1)


@pytest.mark.slow
def test_an_error_during_the_run_ends_both_with_a_line(tmp_path):
    # The other process waits for the first in the sums of the first step.
    _run_two(tmp_path / "run", iterations=1)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    _fail_two(tmp_path / "run", "Is a directory: ", iterations=2)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_a_run_goes_on_with_another_number_of_processes(one, tmp_path, stream):
    changes = {"dataset.stream": stream}
    _run_two(tmp_path / "two", iterations=2, **changes)
    _check_continued(_run_one(tmp_path / "two"), 2)
    _assert_same(tmp_path / "two", one)
    _run_one(tmp_path / "run", iterations=2)
    first, _ = _run_two(tmp_path / "run", **changes)
    _check_continued(first, 2)
    _assert_same(tmp_path / "run", one)


@pytest.mark.slow
def test_two_processes_evaluate_a_set_as_one(one, tmp_path):
    lines = _run_two(tmp_path / "run", flags=["--mode=evaluate", f"--set={one}"])
    assert lines[1] == []
    (line,) = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    expected = json.loads((one / "result.json").read_text())["accuracies"]
    np.testing.assert_allclose(
        json.loads(line)["accuracies"], expected, atol=_ONE_TEST_IMAGE
    )


@pytest.mark.slow
def test_experts_of_two_processes_are_those_of_one(tmp_path):
    changes = {"method": "dm", "network.begin": "experts"}
    changes |= {"experts.number": 2, "experts.epochs": 2}
    _run_one(tmp_path / "one", **changes)
    lines = _run_two(tmp_path / "run", **changes)
    assert lines[1] == []
    _assert_same(tmp_path / "run", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("told", [[1], [0, 1]])
def test_a_signal_to_any_process_stops_all(tmp_path, told):
    folder = tmp_path / "run"
    processes = _start_two(folder, iterations=_LONG)
    path = folder / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < 3:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    for process in told:
        processes[process].send_signal(signal.SIGTERM)
    codes, lines = _finish(processes)
    assert codes == [143, 143], lines
    assert any("Stopped by SIGTERM; iteration " in line for line in lines[0])
    done = len(run_helpers.read_metrics(folder))
    assert 3 <= done < _LONG
    first, _ = _run_two(folder, iterations=done + 2)
    _check_continued(first, done)
    _run_one(tmp_path / "whole", iterations=done + 2)
    _assert_same(folder, tmp_path / "whole")

"""What a run survives: signals, being killed again and again, and a full disk."""

import json
import random
import resource
import signal
import time

import jax.numpy as jnp
import numpy as np
import pytest
import run_helpers

from dc_jax.files.content import write_json
from dc_jax.run.checkpoint import Checkpointer
from dc_jax.run.metrics import Metrics

_ITERATIONS = 1500
_KILLS = 20


def _command(folder):
    command = run_helpers.tiny_command(iterations=_ITERATIONS)
    return [*command, f"--workdir={folder}"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    code, output = run_helpers.run(*_command(folder))
    assert code == 0, output
    return folder


def _assert_same(folder, undisturbed):
    for mine, theirs in zip(
        run_helpers.load_images(folder),
        run_helpers.load_images(undisturbed),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)
    metrics, expected = map(run_helpers.read_metrics, (folder, undisturbed))
    assert [line["losses"] for line in metrics] == [line["losses"] for line in expected]


def _count(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def _wait_for_more(process, folder, lines):
    """Waits until the run has written a line more than these."""
    deadline = time.monotonic() + 300
    while _count(folder) <= lines:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)],
)
def test_a_run_that_dies_is_continued_bit_for_bit(undisturbed, tmp_path, number, code):
    with run_helpers.start(*_command(tmp_path)) as process:
        _wait_for_more(process, tmp_path, 4)
        process.send_signal(number)
        began = time.monotonic()
        output, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == code, output
    assert "Traceback" not in output
    assert 5 <= len(run_helpers.read_metrics(tmp_path)) < _ITERATIONS
    assert not (tmp_path / "result.json").exists()
    if number != signal.SIGKILL:
        assert f"Stopped by {number.name}; iteration " in output

    code, output = run_helpers.run(*_command(tmp_path))
    assert code == 0, output
    assert "Continuing after iteration " in output
    _assert_same(tmp_path, undisturbed)
    metrics = run_helpers.read_metrics(tmp_path)
    assert [line["iteration"] for line in metrics] == [*range(1, _ITERATIONS + 1)]
    results = [
        json.loads((folder / "result.json").read_text())
        for folder in (tmp_path, undisturbed)
    ]
    assert results[0]["accuracies"] == results[1]["accuracies"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_long_iteration_is_not_waited_for(tmp_path, number, code):
    # Half a million inner epochs in the one iteration.
    arguments = run_helpers.tiny_command(outer_loop=50, inner_loop=10_000, iterations=2)
    with run_helpers.start(*arguments, f"--workdir={tmp_path}") as process:
        while not (tmp_path / "metrics.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(15)  # to be sure that it is compiled
        process.send_signal(number)
        began = time.monotonic()
        output, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == code, output
    assert "iteration 0 is saved" in output


@pytest.mark.slow
def test_twenty_kills_change_nothing(undisturbed, tmp_path):
    rng = random.Random(0)
    folder = tmp_path / "run"
    for kill in range(_KILLS):
        with run_helpers.start(*_command(folder)) as process:
            # While it starts, or in and between its iterations.
            if kill % 4:
                _wait_for_more(process, folder, min(_count(folder), _ITERATIONS - 5))
                time.sleep(rng.uniform(0, 0.05))
            else:
                time.sleep(rng.uniform(0, 6))
            process.send_signal(signal.SIGKILL)
            output, _ = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, output
        assert not (folder / "result.json").exists()
    code, output = run_helpers.run(*_command(folder))
    assert code == 0, output
    _assert_same(folder, undisturbed)


def _fill_the_disk(process):
    """No file of the process may grow beyond these bytes, from now on."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (64, 64))


@pytest.mark.slow
def test_a_full_disk_is_an_error_of_one_line(undisturbed, tmp_path):
    folder = tmp_path / "run"
    with run_helpers.start(*_command(folder)) as process:
        _wait_for_more(process, folder, 4)
        _fill_the_disk(process)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert "Traceback" not in output
    error = output.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "File too large" in error
    assert str(folder) in error
    assert not (folder / "result.json").exists()
    # What was saved before is intact, and enough.
    code, output = run_helpers.run(*_command(folder))
    assert code == 0, output
    assert "Continuing after iteration " in output
    assert "is damaged" not in output
    _assert_same(folder, undisturbed)


@pytest.fixture
def full_disk():
    """No file may grow beyond some bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_cannot_be_written(tmp_path, full_disk, capfd):
    # Made before the disk is full, which JAX's compilation cache would notice.
    state, other = {"images": jnp.arange(1000.0)}, {"images": jnp.ones(1000)}
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state, {"seconds": 1})
    full_disk()
    with pytest.raises(OSError, match="too large.*are intact") as error:
        checkpointer.save(2, other, {"seconds": 2})
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert "Traceback" not in "".join(capfd.readouterr())
    restored = Checkpointer(tmp_path).restore(state)
    assert restored.step == 1
    np.testing.assert_array_equal(restored.state["images"], state["images"])


def test_files_that_cannot_be_written_are_named(tmp_path, full_disk):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with Metrics(tmp_path, first=0, total=2) as metrics:
        full_disk()
        with pytest.raises(OSError, match="result.json"):
            write_json(path, {"a": "b" * 100})
        with pytest.raises(OSError, match="metrics.jsonl"):
            metrics.loss(1, np.ones(20))
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    assert json.loads(path.read_text()) == {"a": 1}
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *("metrics.jsonl", "result.json"),
    ]

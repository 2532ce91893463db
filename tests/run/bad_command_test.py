"""Whole commands on bad input: one line at the end, no traceback, nothing written."""

import json
import os
import shutil

import numpy as np
import pytest
import run_helpers

from dc_jax.run import runner

pytestmark = pytest.mark.slow


def _fail(*arguments):
    """Runs a command that must fail, and returns its error."""
    code, output = run_helpers.run(*arguments)
    assert code == 1, output
    assert "Traceback" not in output
    *others, last = output.splitlines()
    assert last.startswith("error: ")
    assert not any(line.startswith("error: ") for line in others)
    return last


def _arguments(folder, **changes):
    return [*run_helpers.tiny_command(**changes), f"--workdir={folder}"]


def test_data(tmp_path):
    path, folder = tmp_path / "data.npz", tmp_path / "run"
    images = np.full((20, 8, 8), np.nan)
    np.savez(path, images=images, labels=np.arange(20) % 2)
    changes = {"dataset.name": "npz", "dataset.path": path}
    assert str(path) in _fail(*_arguments(folder, **changes))
    assert not folder.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr_img", 10**400),
        ("dataset.path", "~nobody_here/x"),
        ("dataset.name[0]", "x"),
    ],
)
def test_fields(tmp_path, field, value):
    folder = tmp_path / "run"
    assert field in _fail(*_arguments(folder, **{field: value}))
    assert not folder.exists()


@pytest.mark.parametrize("field", ["ipc", "num_networks"])
def test_more_than_memory(tmp_path, field):
    line = _fail(*_arguments(tmp_path / "run", **{field: 2**31 - 1}))
    assert f"config.{field}" in line


def test_sets(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, images=np.zeros(3))
    evaluate = [*run_helpers.tiny_command(), "--mode=evaluate", f"--set={path}"]
    assert str(path) in _fail(*evaluate)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    runner.condense(run_helpers.tiny_config(), str(folder))
    return folder


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("card.json", b"[" * 99999),
        ("config.json", b"3"),
    ],
)
def test_files_of_a_run(finished, tmp_path, name, content):
    folder = shutil.copytree(finished, tmp_path / "run")
    if name == "config.json":
        (folder / "card.json").unlink()
    (folder / name).write_bytes(content)
    assert str(folder / name) in _fail(*_arguments(folder))


def test_a_run_goes_on_without_the_metrics_that_are_damaged(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "card.json").unlink()
    lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    damaged = [lines[0], b"5", b'{"iteration": "x"}', b"\xff", b"[" * 99999, lines[1]]
    (folder / "metrics.jsonl").write_bytes(b"\n".join(damaged))
    code, output = run_helpers.run(*_arguments(folder))
    assert code == 0, output
    kept = run_helpers.read_metrics(folder)
    assert kept[:2] == [json.loads(line) for line in lines[:2]]


def test_a_folder_whose_name_is_not_unicode(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/run\xff")
    assert "--workdir must be valid Unicode" in _fail(*_arguments(folder))
    assert not os.path.exists(folder)

"""Paths of users: `~` is their home folder, and buckets are refused alike."""

import os

import numpy as np
import pytest
import run_helpers

import dc_jax
from dc_jax.errors import UserError
from dc_jax.files.paths import user_path
from dc_jax.run import runner
from dc_jax.run.checks import check_names
from dc_jax.run.command_line import find_config
from dc_jax.sets import formats

IMAGES = np.arange(6, dtype=np.uint8).reshape(-1, 1, 1) * np.ones((8, 8), np.uint8)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def test_home(home):
    assert user_path("~/runs", "x") == home / "runs"
    assert user_path("a~b", "x").name == "a~b"
    with pytest.raises(UserError, match="x is '~nobody_here/a': "):
        user_path("~nobody_here/a", "x")


def test_sets_and_folders_in_the_home_folder(home):
    labels = [0, 1] * 3
    chosen = dc_jax.select(IMAGES, labels, ipc=1, method="random", workdir="~/run")
    assert (home / "run" / "synthetic_set.npz").exists()
    formats.export(chosen, "~/set.npz", "npz")
    for path in ("~/run", "~/set.npz", "~/run/synthetic_set.npz"):
        loaded = dc_jax.load_synthetic_set(path)
        np.testing.assert_array_equal(loaded.images, chosen.images)
    assert not os.listdir(home / "elsewhere")
    assert find_config("--config=~/a.py:x") == f"--config={home}/a.py:x"


@pytest.mark.parametrize("path", [3, None, b"set.npz", ["a"], "", "a\0b"])
def test_no_path_at_all(path):
    with pytest.raises(UserError, match="path of a set must be a path, got .") as error:
        dc_jax.load_synthetic_set(path)
    assert repr(path) in str(error.value)


ADDRESS = "gs://bucket/x"


@pytest.mark.parametrize(
    "call",
    [
        lambda: runner.condense(run_helpers.tiny_config(), ADDRESS),
        lambda: runner.evaluate(run_helpers.tiny_config(), ADDRESS),
        lambda: runner.evaluate(run_helpers.tiny_config(), "x", folder=ADDRESS),
        lambda: formats.load_synthetic_set(ADDRESS),
        lambda: formats.export(None, ADDRESS, "npz"),
        lambda: dc_jax.select(IMAGES, [0, 1] * 3, method="random", workdir=ADDRESS),
        lambda: check_names(run_helpers.tiny_config(**{"coreset.networks": ADDRESS})),
    ],
)
def test_buckets_are_refused_alike(home, call):
    with pytest.raises(
        UserError, match="got gs://bucket/x; a bucket can be mounted as"
    ):
        call()
    assert not os.listdir(home / "elsewhere")

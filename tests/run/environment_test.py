"""What is told to JAX elsewhere changes no number of a run."""

import jax
import numpy as np
import pytest
import run_helpers

_QUICK = {
    "iterations": 2,
    "outer_loop": 1,
    "num_experiments": 1,
    "num_evaluations": 1,
    "network.name": "MLP",
    "init": "real",
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The images and the accuracies of a run by the command."""
    return _run_command(tmp_path_factory.mktemp("plain") / "run")


def _run_command(folder):
    command = [*run_helpers.tiny_command(**_QUICK), f"--workdir={folder}"]
    code, output = run_helpers.run(*command)
    assert code == 0, output
    return folder


def _check_same(folder, other):
    run_helpers.assert_same_images(folder, other)
    losses = [
        [line["losses"] for line in run_helpers.read_metrics(path)]
        for path in (folder, other)
    ]
    np.testing.assert_array_equal(*losses)


@pytest.mark.slow
def test_the_command_has_float32_and_threefry(plain, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.setenv("JAX_DEFAULT_PRNG_IMPL", "rbg")
    _check_same(_run_command(tmp_path / "run"), plain)


@pytest.mark.slow
def test_so_has_a_run_of_a_program_that_has_not(tmp_path):
    run_helpers.condense(tmp_path / "plain", **_QUICK)
    with jax.enable_x64(True), jax.default_prng_impl("rbg"):
        run_helpers.condense(tmp_path / "other", **_QUICK)
        assert jax.numpy.zeros(()).dtype == np.float64
    _check_same(tmp_path / "other", tmp_path / "plain")

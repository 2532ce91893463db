"""Which folder keeps compiled programs, and what is removed from it."""

import dataclasses
import os

import jax
import pytest
import run_helpers
from jax._src.compilation_cache import compress_executable

from dc_jax.devices import compilation_cache


@pytest.fixture
def settings(monkeypatch):
    """What JAX is told."""
    told = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    return told


def _use(given):
    config = run_helpers.tiny_config().execution
    compilation_cache.use_compilation_cache(
        dataclasses.replace(config, compilation_cache=given)
    )


@pytest.fixture
def no_setting():
    """The environment has no setting of JAX's own, unlike that of the tests."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_by_default_it_is_the_users_cache(no_setting, settings, tmp_path, monkeypatch):
    monkeypatch.setenv("DC_JAX_CACHE", str(tmp_path / "cache"))
    _use(None)
    assert settings["jax_compilation_cache_dir"] == str(tmp_path / "cache" / "compiled")
    assert settings["jax_persistent_cache_min_compile_time_secs"] == 0
    monkeypatch.setenv("DC_JAX_CACHE", "off")
    settings.clear()
    _use(None)
    assert not settings


def test_a_default_that_cannot_be_written_is_no_error(
    no_setting, settings, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DC_JAX_CACHE", str(tmp_path / "file"))
    _use(None)
    assert not settings


def test_jaxs_own_setting_goes_before_the_default(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("DC_JAX_CACHE", str(tmp_path / "cache"))
    assert jax.config.jax_compilation_cache_dir
    _use(None)
    assert not settings
    assert not (tmp_path / "cache").exists()


def test_what_is_in_the_config_goes_before_all(settings, tmp_path):
    _use(str(tmp_path / "mine"))
    assert settings["jax_compilation_cache_dir"] == str(tmp_path / "mine")
    settings.clear()
    _use("off")
    assert settings == {"jax_enable_compilation_cache": False}


def test_damaged_programs_are_removed(settings, tmp_path, caplog):
    whole = compress_executable(os.urandom(1000))
    contents = {
        "whole": whole,
        "short": whole[:-1],
        "empty": b"",
        "other": b"no program",
    }
    for name, data in contents.items():
        (tmp_path / f"jit_{name}-cache").write_bytes(data)
    with caplog.at_level("INFO", logger="absl"):
        _use(str(tmp_path))
    assert [path.name for path in tmp_path.glob("*-cache")] == ["jit_whole-cache"]
    assert "3 damaged program(s) removed" in caplog.text
    caplog.clear()
    # What was found whole is not read again, unless its size changes.
    (tmp_path / "jit_whole-cache").write_bytes(b"x" * len(whole))
    _use(str(tmp_path))
    assert (tmp_path / "jit_whole-cache").exists()
    (tmp_path / "jit_whole-cache").write_bytes(whole[:50])
    _use(str(tmp_path))
    assert not list(tmp_path.glob("*-cache"))


def test_the_oldest_programs_go_first(no_setting, settings, tmp_path, monkeypatch):
    monkeypatch.setenv("DC_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(compilation_cache, "_MOST", 2500)
    folder = tmp_path / "compiled"
    folder.mkdir()
    for time, name in enumerate("abc"):
        path = folder / f"{name}-cache"
        path.write_bytes(compress_executable(os.urandom(1000)))
        os.utime(path, (time, time))
    _use(None)
    assert sorted(path.name for path in folder.glob("*-cache")) == [
        "b-cache",
        "c-cache",
    ]

"""What a run does before its first iteration: what it imports, what it compiles."""

import pytest
import run_helpers
from data_helpers import run_python

_IMPORTS = """
import sys
from dc_jax.run import loop, runner
from dc_jax.sets import image_grid
HEAVY = {"matplotlib", "orbax", "sklearn", "tensorflow", "tensorflow_datasets"}
assert not HEAVY & set(sys.modules), HEAVY & set(sys.modules)
"""

_RUN = """
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
import run_helpers
seen = {{}}

def note_and_call(module, name):
    call = getattr(module, name)
    def note(*args, **kwargs):
        seen.setdefault(name, HEAVY & set(sys.modules))
        return call(*args, **kwargs)
    setattr(module, name, note)

note_and_call(loop.Metrics, "loss")
note_and_call(image_grid, "save_image_grid")
config = run_helpers.tiny_config(**{{"iterations": 1, "network.name": "MLP"}})
runner.condense(config, {folder!r})
seen["end"] = HEAVY & set(sys.modules)
assert seen == {{
    "loss": {{"sklearn"}},
    "save_image_grid": {{"sklearn"}},
    "end": {{"sklearn", "matplotlib"}},
}}, seen
"""


@pytest.mark.slow
def test_nothing_is_imported_before_it_is_needed(tmp_path):
    folder = str(tmp_path / "run")
    run_python(_IMPORTS + _RUN.format(root=str(run_helpers.ROOT), folder=folder))


def _compile_and_run(tmp_path, name):
    """Runs with the cache; returns what was printed and the cache's files."""
    cache = tmp_path / "cache" / "compiled"
    # An MLP, since it compiles faster than a ConvNet.
    command = run_helpers.tiny_command(
        **{"network.name": "MLP", "execution.compilation_cache": cache}
    )
    code, output = run_helpers.run(*command, f"--workdir={tmp_path / name}")
    assert code == 0, output
    return output, {path: path.stat().st_mtime_ns for path in cache.glob("*-cache")}


@pytest.mark.slow
def test_a_second_run_finds_all_programs_in_the_compilation_cache(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("JAX_LOG_COMPILES", "1")
    # What is in the config goes first.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "unused"))
    first, files = _compile_and_run(tmp_path, "first")
    assert "cache hit for 'jit_step'" not in first
    second, files_then = _compile_and_run(tmp_path, "second")
    for name in ("init", "step", "train", "test"):
        assert f"cache hit for 'jit_{name}'" in second
    # Of the smallest programs too: nothing is compiled a second time.
    assert len(files) > 10
    assert files_then == files
    assert not (tmp_path / "unused").exists()
    for name in ("synthetic_set.npz", "synthetic_set_1.npz"):
        ours, theirs = (tmp_path / run / name for run in ("first", "second"))
        assert ours.read_bytes() == theirs.read_bytes()

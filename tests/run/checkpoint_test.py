"""Tests of checkpoints: what comes back, and what damage may never do."""

import errno
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import bad_input
import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dc_jax.run import checkpoint
from dc_jax.run.checkpoint import Checkpointer

_META = {"config": {"ipc": 1, "lr": 0.1}, "dataset": None}


class _State(NamedTuple):
    images: jax.Array
    opt_state: optax.OptState
    key: jax.Array
    step: jax.Array


def _make_state(step: int, num_images: int = 2) -> _State:
    images = jnp.arange(num_images * 12.0).reshape(num_images, 3, 4) + step
    opt_state = optax.sgd(0.1, momentum=0.5).init(images)
    opt_state = jax.tree.map(lambda leaf: leaf + 0.25 * step, opt_state)
    return _State(images, opt_state, jax.random.key(step), jnp.int32(step))


def _assert_same(actual, expected):
    chex.assert_trees_all_equal_structs(actual, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    unwrap = lambda leaf: (  # noqa: E731
        jax.random.key_data(leaf)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else leaf
    )
    chex.assert_trees_all_equal(
        jax.tree.map(unwrap, actual), jax.tree.map(unwrap, expected)
    )


def _save(folder, *steps, keep=2):
    checkpointer = Checkpointer(folder, keep=keep)
    for step in steps:
        checkpointer.save(step, _make_state(step), _META | {"step": step})


def _restore(folder):
    return Checkpointer(folder).restore(_make_state(0))


def _path(folder, step):
    return folder / f"{step:08d}.ckpt"


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the steps 1 and 2, to copy, never to change."""
    folder = tmp_path_factory.mktemp("checkpoints") / "saved"
    _save(folder, 1, 2)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return pathlib.Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture
def warnings(monkeypatch):
    """The lines logged as warnings, in place of printing them."""
    lines = []
    monkeypatch.setattr(
        logging, "warning", lambda message, *args: lines.append(message % args)
    )
    return lines


def test_no_checkpoint_is_none(tmp_path):
    assert _restore(tmp_path / "new" / "folder") is None
    assert not (tmp_path / "new").exists()


def test_round_trip(saved):
    restored = _restore(saved)
    assert restored.step == 2
    assert restored.meta == _META | {"step": 2}
    _assert_same(restored.state, _make_state(2))
    # The key is a key: it draws what the saved one would have drawn.
    np.testing.assert_array_equal(
        jax.random.normal(restored.state.key, (3,)),
        jax.random.normal(jax.random.key(2), (3,)),
    )


def test_round_trip_of_other_leaves(tmp_path):
    state = {
        "bfloat16": jnp.ones((2,), jnp.bfloat16),
        "bool": jnp.array([True, False]),
        "empty": jnp.zeros((2, 0)),
        "keys": jax.random.split(jax.random.key(1, impl="rbg"), 3),
        "not_finite": jnp.array([jnp.nan, -jnp.inf, -0.0]),
    }
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state, {})
    restored = checkpointer.restore(state).state
    assert restored["keys"].dtype == state["keys"].dtype
    for name in set(state) - {"keys"}:
        assert restored[name].dtype == state[name].dtype
        assert restored[name].shape == state[name].shape
        assert np.asarray(restored[name]).tobytes() == state[name].tobytes()


@pytest.mark.parametrize("keep", [1, 3])
def test_keeps_the_newest(tmp_path, keep):
    _save(tmp_path, 8, 9, 10, 123_456_789, keep=keep)
    kept = sorted(int(child.stem) for child in tmp_path.iterdir())
    assert kept == [8, 9, 10, 123_456_789][-keep:]
    assert _restore(tmp_path).step == 123_456_789


@bad_input.cases(60)
@hypothesis.given(st.data())
def test_damage_never_gives_wrong_values(saved, data):
    whole = _path(saved, 2).read_bytes()
    content = data.draw(bad_input.damaged(whole))
    lines = []
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as new:
        patch.setattr(logging, "warning", lambda text, *args: lines.append(text % args))
        folder = pathlib.Path(shutil.copytree(saved, new, dirs_exist_ok=True))
        _path(folder, 2).write_bytes(content)
        restored = _restore(folder)
    assert restored.step == (2 if content == whole else 1)
    assert restored.meta == _META | {"step": restored.step}
    _assert_same(restored.state, _make_state(restored.step))
    assert len(lines) == 2 - restored.step


def test_a_file_of_another_step_is_not_used(copy, warnings):
    shutil.copy(_path(copy, 1), _path(copy, 2))
    assert _restore(copy).step == 1
    (line,) = warnings
    assert re.match(r"Checkpoint .*00000002.ckpt is damaged, not used\.$", line)


def test_a_damaged_step_can_be_saved_again(copy, warnings):
    os.truncate(_path(copy, 2), 1)
    checkpointer = Checkpointer(copy)
    assert checkpointer.restore(_make_state(0)).step == 1
    checkpointer.save(2, _make_state(2), {"attempt": 2})
    restored = checkpointer.restore(_make_state(0))
    assert (restored.step, restored.meta) == (2, {"attempt": 2})
    _assert_same(restored.state, _make_state(2))
    assert len(warnings) == 1


def test_a_step_below_a_damaged_one_can_be_saved(tmp_path, warnings):
    _save(tmp_path, 10, 20)
    os.truncate(_path(tmp_path, 20), 1)
    checkpointer = Checkpointer(tmp_path)
    assert checkpointer.restore(_make_state(0)).step == 10
    checkpointer.save(15, _make_state(15), {})
    assert _names(tmp_path) == ["00000010.ckpt", "00000015.ckpt"]
    assert len(warnings) == 1


def test_nothing_intact_is_an_error(copy, warnings):
    for path in copy.iterdir():
        os.truncate(path, 1)
    with pytest.raises(
        ValueError, match=r"^no checkpoint in .*copy is intact .*2, 1[^\n]*$"
    ):
        _restore(copy)
    assert len(warnings) == 2


def _lower_the_limit_of_files(monkeypatch):
    """Opening a file fails, as in a process that has too many open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def _fail_to_read(error):
    """Only the reading of the file fails."""

    def fail(self):
        raise error

    def patch(monkeypatch):
        monkeypatch.setattr(pathlib.Path, "read_bytes", fail)
        return monkeypatch.undo

    return patch


def _run_out_of_memory(monkeypatch):
    def fail(data):
        raise MemoryError

    monkeypatch.setattr(checkpoint, "msgpack_restore", fail)
    return monkeypatch.undo


@pytest.mark.parametrize(
    ("begin", "reason"),
    [
        (_lower_the_limit_of_files, "Too many open files"),
        *[
            (_fail_to_read(OSError(number, os.strerror(number))), os.strerror(number))
            for number in (errno.EIO, errno.ESTALE, errno.EACCES)
        ],
        (_run_out_of_memory, "MemoryError"),
    ],
)
def test_what_cannot_be_read_now_is_not_given_up(copy, monkeypatch, begin, reason):
    before = _names(copy)
    checkpointer = Checkpointer(copy, keep=1)
    end = begin(monkeypatch)
    try:
        with pytest.raises(OSError, match=f"cannot be read now .*{reason}") as error:
            checkpointer.restore(_make_state(0))
    finally:
        end()
    assert "\n" not in str(error.value)
    assert str(copy) in str(error.value)
    assert _names(copy) == before
    assert checkpointer.restore(_make_state(0)).step == 2


def test_stray_files_and_folders(copy):
    with subprocess.Popen(["true"]) as process:
        process.wait()
    killed = f"00000003.ckpt.{process.pid}.tmp"
    others = ["notes", "7", "7.ckpt", "00000009.ckpt.bak"]
    for name in (killed, *others):
        (copy / name).touch()
    assert _restore(copy).step == 2
    _save(copy, 3)
    assert _names(copy) == sorted(["00000002.ckpt", "00000003.ckpt", *others])


def test_other_shape_is_an_error(saved):
    message = (
        r"^checkpoint step 2 in .* holds images float32\[2, 3, 4\] where this run "
        r"needs images float32\[5, 3, 4\]: [^\n]*$"
    )
    with pytest.raises(ValueError, match=message):
        Checkpointer(saved).restore(_make_state(0, num_images=5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": jnp.zeros((2, 3, 4), jnp.bfloat16)}, "needs images bfloat16"),
        ({"opt_state": ()}, "holds opt_state/0/trace float32.* needs step int32"),
        (
            {"step": {"a": jnp.int32(0), "b": jnp.int32(0)}},
            "holds step .* needs step/a",
        ),
        ({"step": ()}, "holds step .* needs nothing more"),
    ],
)
def test_other_structure_is_an_error(saved, change, message):
    with pytest.raises(ValueError, match=message):
        Checkpointer(saved).restore(_make_state(0)._replace(**change))


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file cannot be read now .*Not a directory"):
        _restore(tmp_path / "file")


def test_shardings_follow_the_template(saved):
    mesh = jax.make_mesh((1,), ("networks",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec())
    template = jax.device_put(_make_state(0), sharding)
    checkpointer = Checkpointer(saved)
    committed = checkpointer.restore(template).state
    free = checkpointer.restore(_make_state(0)).state
    assert all(leaf.sharding.mesh == mesh for leaf in jax.tree.leaves(committed))
    # Else a restored leaf could not meet arrays on a mesh, as a fresh one can.
    assert not any(leaf.committed for leaf in jax.tree.leaves(free))


_FOUR_DEVICES = """
import sys, jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from dc_jax.run.checkpoint import Checkpointer
jax.config.update("jax_num_cpu_devices", 4)
mesh = jax.make_mesh((4,), ("networks",), axis_types=(AxisType.Auto,))
state = {"images": jnp.arange(8.0), "key": jax.random.split(jax.random.key(3), 4)}
sharding = NamedSharding(mesh, PartitionSpec("networks"))
checkpointer = Checkpointer(sys.argv[1])
checkpointer.save(1, jax.device_put(state, sharding), {})
"""


@pytest.mark.slow
def test_restores_on_another_number_of_devices(tmp_path):
    subprocess.run([sys.executable, "-c", _FOUR_DEVICES, tmp_path], check=True)
    state = {"images": jnp.arange(8.0), "key": jax.random.split(jax.random.key(3), 4)}
    checkpointer = Checkpointer(tmp_path)
    restored = checkpointer.restore(jax.tree.map(jnp.zeros_like, state))
    _assert_same(restored.state, state)


_SAVE_FOREVER = """
import sys, jax.numpy as jnp
from dc_jax.run.checkpoint import Checkpointer
checkpointer = Checkpointer(sys.argv[1])
restored = checkpointer.restore({"images": jnp.zeros((500, 500))})
step = 0 if restored is None else restored.step
while True:
    step += 1
    checkpointer.save(step, {"images": jnp.full((500, 500), float(step))}, {})
    print(step, flush=True)
"""


@pytest.mark.slow
def test_survives_being_killed_while_saving(tmp_path):
    for delay in (0.1, 0.15, 0.2, 0.25):
        process = subprocess.Popen(
            [sys.executable, "-c", _SAVE_FOREVER, tmp_path], stdout=subprocess.PIPE
        )
        with process:
            saved = int(process.stdout.readline())
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        checkpointer = Checkpointer(tmp_path)
        restored = checkpointer.restore({"images": jnp.zeros((500, 500))})
        assert restored.step >= saved
        assert np.all(restored.state["images"] == restored.step)

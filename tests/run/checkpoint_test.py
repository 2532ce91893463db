"""Tests of checkpoints: what comes back, and what damage may never do."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dc_jax.run.checkpoint import Checkpointer

_META = {"config": {"ipc": 1, "lr": 0.1}, "dataset": "digits"}


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
    checkpointer.close()


def _restore(folder):
    checkpointer = Checkpointer(folder)
    restored = checkpointer.restore(_make_state(0))
    checkpointer.close()
    return restored


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


def _files(step_folder):
    files = [file for file in sorted(step_folder.rglob("*")) if file.is_file()]
    assert len(files) > 3
    return [file for file in files if file.stat().st_size > 0]


def test_no_checkpoint_is_none(tmp_path):
    assert _restore(tmp_path / "new" / "folder") is None


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
        "float": 0.1,
        "int": 2**40,
        "keys": jax.random.split(jax.random.key(1, impl="rbg"), 3),
        "not_finite": jnp.array([jnp.nan, -jnp.inf, -0.0]),
        "numpy": np.arange(3, dtype=np.int64),
        "scalar": np.float32(0.5),
    }
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state, {})
    restored = checkpointer.restore(state).state
    checkpointer.close()
    assert restored["float"] == 0.1
    assert restored["int"] == 2**40
    assert restored["keys"].dtype == state["keys"].dtype
    assert isinstance(restored["numpy"], np.ndarray)
    for name in set(state) - {"float", "int", "keys"}:
        assert restored[name].dtype == state[name].dtype
        assert restored[name].shape == state[name].shape
        assert np.asarray(restored[name]).tobytes() == state[name].tobytes()


def test_restores_into_shapes_and_dtypes_only(saved):
    checkpointer = Checkpointer(saved)
    restored = checkpointer.restore(jax.eval_shape(lambda: _make_state(0)))
    checkpointer.close()
    _assert_same(restored.state, _make_state(2))


def test_values_are_those_at_the_time_of_saving(tmp_path):
    # Donation lets XLA write over the buffers while the checkpoint is being written.
    change = jax.jit(lambda images: images * 2.0, donate_argnums=0)
    images = jnp.ones((1000, 1000))
    in_place = np.ones(1000)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"images": images, "numpy": in_place}, {})
    in_place *= 2
    images = change(change(images))
    restored = checkpointer.restore({"images": images, "numpy": in_place})
    checkpointer.close()
    assert np.all(restored.state["images"] == 1.0)
    assert np.all(restored.state["numpy"] == 1.0)


@pytest.mark.parametrize("keep", [1, 3])
def test_keeps_the_newest(tmp_path, keep):
    _save(tmp_path, 1, 2, 3, 4, keep=keep)
    kept = sorted(int(child.name) for child in tmp_path.iterdir())
    assert kept == [1, 2, 3, 4][-keep:]
    assert _restore(tmp_path).step == 4


def test_intact_step_is_not_rewritten(copy):
    before = {file: file.stat().st_mtime_ns for file in _files(copy / "2")}
    checkpointer = Checkpointer(copy)
    checkpointer.save(2, _make_state(2), {"other": "meta"})
    assert checkpointer.restore(_make_state(0)).meta["step"] == 2
    checkpointer.close()
    assert before == {file: file.stat().st_mtime_ns for file in _files(copy / "2")}


def test_refuses_to_save_below_an_intact_step(copy):
    checkpointer = Checkpointer(copy)
    with pytest.raises(
        ValueError, match=r"already holds step 2, beyond step 1 [^\n]*$"
    ):
        checkpointer.save(1, _make_state(1), {})
    checkpointer.close()


def test_truncated_newest_step_falls_back(copy, warnings):
    for file in _files(copy / "2"):
        os.truncate(file, file.stat().st_size // 2)
    restored = _restore(copy)
    assert restored.step == 1
    assert restored.meta["step"] == 1
    _assert_same(restored.state, _make_state(1))
    assert len(warnings) == 1
    assert re.match(
        r"Checkpoint step 2 in .* is damaged and not used: .+$", warnings[0]
    )


@pytest.mark.parametrize("damage", ["truncate", "empty", "remove", "flip"])
def test_one_damaged_file_never_gives_wrong_values(saved, tmp_path, warnings, damage):
    steps = []
    for index, original in enumerate(_files(saved / "2")):
        folder = pathlib.Path(shutil.copytree(saved, tmp_path / str(index)))
        file = folder / original.relative_to(saved)
        data = bytearray(file.read_bytes())
        if damage == "remove":
            file.unlink()
        elif damage == "flip":
            data[len(data) * 2 // 3] ^= 1
            file.write_bytes(data)
        else:
            file.write_bytes(data[: len(data) // 2 if damage == "truncate" else 0])
        restored = _restore(folder)
        steps.append(restored.step)
        _assert_same(restored.state, _make_state(restored.step))
        assert restored.meta == _META | {"step": restored.step}
    # Some files matter and some do not (commit marks, copies of the metadata).
    assert set(steps) == {1, 2}
    assert len(warnings) == steps.count(1)


def test_wrong_value_that_orbax_would_restore(copy, warnings):
    # Not bit rot, which TensorStore sometimes notices, but a whole file of another run.
    other = copy.parent / "other"
    checkpointer = Checkpointer(other)
    checkpointer.save(2, _make_state(7), {})
    checkpointer.close()
    shutil.rmtree(copy / "2" / "state")
    shutil.copytree(other / "2" / "state", copy / "2" / "state")
    restored = _restore(copy)
    _assert_same(restored.state, _make_state(1))
    assert "checksum of images does not match" in warnings[0]


def test_a_damaged_step_can_be_saved_again(copy, warnings):
    for file in _files(copy / "2"):
        os.truncate(file, 1)
    checkpointer = Checkpointer(copy)
    assert checkpointer.restore(_make_state(0)).step == 1
    checkpointer.save(2, _make_state(2), {"attempt": 2})
    restored = checkpointer.restore(_make_state(0))
    checkpointer.close()
    assert (restored.step, restored.meta) == (2, {"attempt": 2})
    _assert_same(restored.state, _make_state(2))
    assert len(warnings) == 1


def test_a_step_below_a_damaged_one_can_be_saved(tmp_path, warnings):
    _save(tmp_path, 10, 20)
    for file in _files(tmp_path / "20"):
        os.truncate(file, 1)
    _save(tmp_path, 15)
    assert sorted(child.name for child in tmp_path.iterdir()) == ["10", "15"]
    assert _restore(tmp_path).step == 15
    assert len(warnings) == 1


def test_nothing_intact_is_an_error(copy, warnings):
    for file in _files(copy):
        os.truncate(file, 1)
    with pytest.raises(
        ValueError, match=r"^no checkpoint in .*copy is intact .*2, 1[^\n]*$"
    ):
        _restore(copy)
    assert len(warnings) == 2


def test_stray_files_and_folders(copy, warnings):
    for name in ("6", "8.orbax-checkpoint-tmp", "9.orbax-checkpoint-tmp-123", "notes"):
        (copy / name).mkdir()
    (copy / "7").touch()
    checkpointer = Checkpointer(copy)
    assert checkpointer.restore(_make_state(0)).step == 2
    assert len(warnings) == 1
    assert "Checkpoint step 6" in warnings[0]
    checkpointer.save(3, _make_state(3), {})
    checkpointer.close()
    assert _restore(copy).step == 3
    assert sorted(child.name for child in copy.iterdir()) == ["2", "3", "7", "notes"]


def test_other_shape_is_an_error(saved):
    checkpointer = Checkpointer(saved)
    message = (
        r"^checkpoint step 2 in .* holds images float32\[2, 3, 4\] where this run "
        r"needs images float32\[5, 3, 4\]: [^\n]*$"
    )
    with pytest.raises(ValueError, match=message):
        checkpointer.restore(_make_state(0, num_images=5))
    checkpointer.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": jnp.zeros((2, 3, 4), jnp.bfloat16)}, "needs images bfloat16"),
        ({"opt_state": ()}, "holds opt_state/0/trace float32.* needs key key<fry>"),
        (
            {"step": {"a": jnp.int32(0), "b": jnp.int32(0)}},
            "holds step .* needs step/a",
        ),
        ({"step": ()}, "holds step .* needs nothing more"),
    ],
)
def test_other_structure_is_an_error(saved, change, message):
    checkpointer = Checkpointer(saved)
    with pytest.raises(ValueError, match=message):
        checkpointer.restore(_make_state(0)._replace(**change))
    checkpointer.close()


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="keep must be >= 1, got 0"):
        Checkpointer(tmp_path, keep=0)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is not a folder"):
        Checkpointer(tmp_path / "file")


def test_shardings_follow_the_template(saved):
    mesh = jax.make_mesh((1,), ("networks",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec())
    template = jax.device_put(_make_state(0), sharding)
    checkpointer = Checkpointer(saved)
    committed = checkpointer.restore(template).state
    free = checkpointer.restore(_make_state(0)).state
    checkpointer.close()
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
checkpointer.close()
"""


def test_restores_on_another_number_of_devices(tmp_path):
    subprocess.run([sys.executable, "-c", _FOUR_DEVICES, tmp_path], check=True)
    state = {"images": jnp.arange(8.0), "key": jax.random.split(jax.random.key(3), 4)}
    checkpointer = Checkpointer(tmp_path)
    restored = checkpointer.restore(jax.tree.map(jnp.zeros_like, state))
    checkpointer.close()
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
            # The second save waits for the first.
            saved = [int(process.stdout.readline()) for _ in range(2)][0]
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        checkpointer = Checkpointer(tmp_path)
        restored = checkpointer.restore({"images": jnp.zeros((500, 500))})
        checkpointer.close()
        assert restored.step >= saved
        assert np.all(restored.state["images"] == restored.step)


def test_orbax_does_not_chatter(tmp_path, capfd):
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    try:
        _save(tmp_path, 1)
        _restore(tmp_path)
        logging.info("our own line")
    finally:
        logging.set_verbosity(verbosity)
    printed = capfd.readouterr()
    lines = (printed.out + printed.err).splitlines()
    assert [line for line in lines if "our own line" not in line] == []

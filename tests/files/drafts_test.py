"""Tests of drafts: who may remove whose."""

import os
import re
import subprocess
import sys

import pytest

from dc_jax.files import drafts


def _process_that_ended() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def _name(path, process, machine=None):
    return f"{path}.{machine or drafts._machine()}-{process}-0123abcd.tmp"


def test_a_draft_of_a_killed_process_is_removed_by_the_next(tmp_path):
    path = tmp_path / "set.npz"
    code = (
        "import os, signal, sys\n"
        "from dc_jax.files.drafts import draft\n"
        "with draft(sys.argv[1]) as temporary:\n"
        "    open(temporary, 'w').write('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, path], check=False)
    (stale,) = os.listdir(tmp_path)
    assert re.fullmatch(r"set\.npz\.[0-9a-f]{8}-\d+-[0-9a-f]{8}\.tmp", stale)
    with drafts.draft(path) as temporary:
        with open(temporary, "w") as file:
            file.write("whole")
        assert os.listdir(tmp_path) == [os.path.basename(temporary)]
    assert os.listdir(tmp_path) == ["set.npz"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_only_those_of_dead_processes_of_this_machine_are_removed(tmp_path, kind):
    dead = _process_that_ended()
    removed = [_name("a.npz", dead), _name("any", dead)]
    kept = [
        _name("a.npz", os.getppid()),
        _name("a.npz", dead, machine="0" * 8),
        "a.npz",
        "a.npz.tmp",
        f"notes.{dead}.tmp",
    ]
    removed += [f"5.png.{dead}.tmp"]  # As earlier versions called theirs.
    folder = tmp_path / "snapshots"
    folder.mkdir()
    for name in (*removed, *kept):
        (folder / name).touch() if kind == "file" else (folder / name).mkdir()
    drafts.remove_stale(tmp_path, lambda name: name.endswith(".png"))
    assert sorted(os.listdir(folder)) == sorted(kept)


def test_two_processes_of_the_same_number_do_not_meet(tmp_path):
    path = tmp_path / "set.npz"
    # As in two containers on one share: the same process here.
    with drafts.draft(path) as first, drafts.draft(path) as second:
        assert first != second
        for temporary in (first, second):
            with open(temporary, "w") as file:
                file.write(temporary)
    assert path.read_text() == first
    assert os.listdir(tmp_path) == ["set.npz"]

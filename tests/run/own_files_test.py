"""Tests of what is left alone: the files of others, and those of a finished run."""

import errno
import fcntl
import json
import logging
import shutil

import numpy as np
import pytest
import run_helpers
from report_helpers import make_dataset, make_run

from dc_jax import report
from dc_jax.report import kept
from dc_jax.run import finished, own_files, saving, workdir

CONFIG = run_helpers.tiny_config()
# As `make_run` makes it.
RUN = {"ipc": 2, "num_experiments": 1, "network.name": "ConvNet"}


@pytest.mark.parametrize(
    "name",
    [
        *("snapshots/20240101.png", "tensorboard/events.out.tfevents.1.host"),
        *("result.json", "card.json", "images.png", "images_12.png", "report.html"),
        *("synthetic_set.npz", "checkpoints/epoch=3.ckpt", "networks/mine.pt"),
        *("metrics.jsonl", "confusion.csv", "config.json"),
    ],
)
def test_a_folder_with_a_file_of_others_is_refused_as_it_is(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"model_type": "bert", "seed": 0}')
    before = run_helpers.snapshot(tmp_path)
    with pytest.raises(ValueError, match=name.split("/")[0]) as error:
        workdir.claimed(CONFIG, tmp_path).__enter__()
    assert "\n" not in str(error.value)
    assert f"--workdir={tmp_path} holds " in str(error.value)
    # Not even a lock is left.
    assert run_helpers.snapshot(tmp_path) == before


def test_other_files_are_no_obstacle(tmp_path):
    for name in ("notes.txt", "images.jpg", "synthetic_set_0.npz", "result.json.bak"):
        (tmp_path / name).write_text("mine")
    before = run_helpers.snapshot(tmp_path)
    with workdir.claimed(CONFIG, tmp_path):
        pass
    now = run_helpers.snapshot(tmp_path)
    assert before.items() <= now.items()
    assert {path.name for path in now.keys() - before.keys()} == {
        *(".lock", "config.json")
    }


def test_a_config_of_another_program_in_a_folder_that_is_empty_otherwise(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 0}')
    with pytest.raises(ValueError, match=r"holds config\.json, which is no run's"):
        workdir.claim(CONFIG, tmp_path)


def test_a_photo_in_the_snapshots_of_a_run_stays(tmp_path):
    config = run_helpers.tiny_config(**RUN)
    make_run(tmp_path)
    for name in ("20240101.png", "3.png", "05.png", "photo.png"):
        (tmp_path / "snapshots" / name).write_text("mine")
    workdir.claim(config, tmp_path)
    kept.drop_snapshots(tmp_path, 1)
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == sorted(
        ["0.png", "1.png", "20240101.png", "3.png", "05.png", "photo.png"]
    )
    assert [*kept.read_snapshots(tmp_path)] == [0, 1]


def test_a_folder_of_evaluations_can_become_that_of_a_run(tmp_path):
    line = {"accuracy_mean": 0.5, "accuracy_std": 0.0, "set": "x"}
    saving.add_evaluation(tmp_path, line | {"protocol": {"network": "MLP"}})
    report.write(tmp_path)
    own_files.check_evaluations(tmp_path)
    workdir.claim(CONFIG, tmp_path)


def test_the_evaluations_of_another_program_get_no_line(tmp_path):
    (tmp_path / "evaluations.jsonl").write_text('{"bleu": 3}\n')
    with pytest.raises(ValueError, match=r"holds evaluations\.jsonl, which is no"):
        own_files.check_evaluations(tmp_path)


def test_a_card_without_its_config_is_of_a_run(tmp_path):
    make_run(tmp_path)
    (tmp_path / "config.json").unlink()
    workdir.check_is_ours(run_helpers.tiny_config(**RUN), tmp_path)
    with pytest.raises(ValueError, match=r"config\.seed = 0, not 1"):
        workdir.check_is_ours(run_helpers.tiny_config(seed=1, **RUN), tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
    def fail(file, how):
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(ValueError, match="cannot be locked.*another disk") as error:
        workdir.locked(tmp_path).__enter__()
    assert str(tmp_path) in str(error.value)


def test_a_claim_removes_what_killed_processes_left(tmp_path):
    with workdir.claimed(CONFIG, tmp_path):
        pass
    (tmp_path / "snapshots").mkdir()
    # Process numbers end at 2**22.
    stale = tmp_path / "snapshots" / "5.png.99999999.tmp"
    for path in (stale, tmp_path / "mine.txt.99999999.tmp"):
        path.touch()
    with workdir.claimed(CONFIG, tmp_path):
        assert not stale.exists()
    assert (tmp_path / "mine.txt.99999999.tmp").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    make_run(folder)
    return folder


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def _finished(folder):
    return finished.finished_result(run_helpers.tiny_config(**RUN), folder)


def test_every_file_is_on_the_card(run):
    names = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    made_of_others = {"card.json", "config.json", "report.html"}
    files = json.loads((run / "card.json").read_text())["files"]
    assert names - made_of_others == files.keys()
    assert "snapshots/2.png" in files


def test_a_finished_run_does_not_claim_that_its_dataset_is_the_same(copy, caplog):
    caplog.set_level(logging.INFO, logger="absl")
    assert _finished(copy)["accuracy_mean"] == 0.75
    (record,) = caplog.records
    assert "whether its dataset is still the same was not checked" in record.message


@pytest.mark.parametrize("change", ["delete", "edit"])
def test_a_result_that_is_gone_or_edited_is_written_again(copy, change):
    path = copy / "result.json"
    whole = path.read_bytes()
    path.unlink() if change == "delete" else path.write_bytes(b'{"accuracy_mean": 1}')
    assert _finished(copy)["accuracy_mean"] == 0.75
    assert path.read_bytes() == whole


def test_a_config_that_is_gone_is_named_and_written_again(copy, caplog):
    path = copy / "config.json"
    before = path.read_bytes()
    path.unlink()
    assert _finished(copy)["accuracy_mean"] == 0.75
    assert path.read_bytes() == before
    assert f"{path} is not what the run left; written again." in caplog.text


@pytest.mark.parametrize("name", ["config.json", "card.json"])
@pytest.mark.parametrize("content", ["[1]", "mine"])
def test_nobody_is_told_to_delete_what_may_be_of_others(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} is damaged.*another fold") as error:
        workdir.check_is_ours(CONFIG, tmp_path)
    assert "delete it" not in str(error.value)


@pytest.mark.parametrize("change", ["delete", "edit"])
def test_what_is_made_of_the_set_needs_no_evaluation(copy, change):
    path, neighbours = copy / "images.png", copy / "neighbours.npz"
    whole = path.read_bytes(), neighbours.read_bytes()
    for one in (path, neighbours):
        one.unlink() if change == "delete" else one.write_bytes(b"1,2\n")
    assert _finished(copy)["accuracy_mean"] == 0.75
    config = run_helpers.tiny_config(**RUN)
    assert finished.lacks_neighbours(config, copy)
    finished.add_neighbours(copy, make_dataset(3))
    assert not finished.lacks_neighbours(config, copy)
    assert (path.read_bytes(), neighbours.read_bytes()) == whole


@pytest.mark.parametrize("name", ["confusion.csv", "synthetic_set.npz"])
@pytest.mark.parametrize("change", ["delete", "edit"])
def test_a_run_without_one_of_its_files_is_not_finished(copy, name, change):
    path = copy / name
    path.unlink() if change == "delete" else path.write_bytes(b"1,2\n")
    assert _finished(copy) is None


def test_a_card_with_another_accuracy_is_not_believed(copy):
    card = json.loads((copy / "card.json").read_text())
    card["accuracy"]["accuracy_mean"] = 0.99
    (copy / "card.json").write_text(json.dumps(card))
    assert _finished(copy) is None


def test_what_only_a_new_run_can_make_again_is_told(copy, caplog):
    (copy / "snapshots" / "1.png").unlink()
    path = copy / "metrics.jsonl"
    path.write_text(path.read_text().replace("3.0", "0.1"))
    assert _finished(copy)["accuracy_mean"] == 0.75
    (text,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert "metrics.jsonl, snapshots/1.png" in text


def test_lines_of_a_longer_run_do_not_count(copy, caplog):
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 5, "loss": 1.0}\n')
    assert _finished(copy)["accuracy_mean"] == 0.75
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_a_folder_that_was_deleted_is_not_made_again(tmp_path):
    folder = tmp_path / "gone"
    with pytest.raises(OSError, match="was deleted during the run"):
        saving.save_run(
            *(CONFIG, folder, make_dataset(3)), protocol=None, sets=[], result={}
        )
    assert not folder.exists()


def test_a_kill_before_the_card_leaves_no_finished_run(tmp_path, monkeypatch):
    def kill(**fields):
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "make_card", kill)
    with pytest.raises(KeyboardInterrupt):
        make_run(tmp_path)
    # What the card would list is there; a new evaluation makes it again.
    assert np.loadtxt(tmp_path / "confusion.csv", delimiter=",").shape == (3, 3)
    assert _finished(tmp_path) is None

"""Networks of one shape side by side are what each is alone."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
import run_helpers

from configs.experiments import architecture_search as search_config
from dc_jax.config import Config
from dc_jax.data.sources import load_dataset
from dc_jax.networks import make_network
from dc_jax.run import runner
from dc_jax.run.baselines import make_coreset
from dc_jax.run.full_data_trainer import WholeTrainer
from dc_jax.run.signals import Stopped
from dc_jax.sets import set_file
from experiments.architecture_search import __main__ as search
from experiments.architecture_search import shapes
from experiments.architecture_search.side_by_side import join, set_member, shape_name

pytestmark = pytest.mark.usefixtures("quick_compile_all")
NAMES = ("ConvNetD1W8ASNN", "ConvNetD1W8ALNNMP", "ConvNetD1W8NNAP")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("ConvNet", "ConvNet"),
        ("ConvNetW64D2ASwishBNMP", "ConvNetW64D2BN"),
        ("ConvNetD1ALLNNP", "ConvNetD1LNNP"),
        ("ConvNetD1AP", "ConvNetD1"),
        ("MLP", "MLP"),
    ],
)
def test_what_changes_no_parameter_is_left_out_of_a_shape(name, shape):
    assert shape_name(name) == shape


def test_every_network_of_a_shape_has_its_parameters():
    names = search.networks(search_config.get_config("paper").space)
    groups = search.shapes(names)
    assert sorted(sum(groups.values(), [])) == sorted(names)
    # With no pooling there are three activations, else six networks a shape.
    assert sorted(map(len, groups.values())) == [3] * 80 + [6] * 80

    def parameters(name):
        network = make_network(name, 10, (16, 16, 3))
        return jax.eval_shape(
            network.init, jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32)
        )

    for group in list(groups.values())[::23]:
        first, *others = map(parameters, group)
        assert all(other == first for other in others)


@pytest.mark.parametrize("is_vmapped", [False, True])
def test_a_member_is_its_network(is_vmapped):
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    several = join([make_network(name, 3, (8, 8, 1)) for name in NAMES])
    variables = several.init(jax.random.key(1), images)

    def apply(index):
        of_member = set_member(variables, index)
        logits = several.apply(of_member, images)
        grads = jax.grad(
            lambda params: (
                several.apply({**of_member, "params": params}, images) ** 2
            ).sum()
        )(variables["params"])
        return logits, grads

    if is_vmapped:
        outputs = jax.jit(jax.vmap(apply))(np.arange(len(NAMES)))
    else:
        outputs = jax.lax.map(apply, np.arange(len(NAMES)))
    for index, name in enumerate(NAMES):
        network = make_network(name, 3, (8, 8, 1))
        params = variables["params"]
        expected = network.apply({"params": params}, images)
        loss = lambda p, net=network: (net.apply({"params": p}, images) ** 2).sum()  # noqa: E731
        grads = jax.jit(jax.grad(loss))(params)
        ours = jax.tree.map(lambda leaf, index=index: leaf[index], outputs)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
            ours,
            (expected, grads),
        )


def test_networks_of_two_shapes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="differ in activation, .*got ConvNet,Con"):
        shapes.run(_values(("ConvNet", "ConvNetW64")), str(tmp_path))
    # A run has one network.
    config = run_helpers.tiny_config(**{"evaluation.network": "ConvNetAS,ConvNet"})
    with pytest.raises(ValueError, match=r"config\.evaluation\.network: network must"):
        runner.condense(config, str(tmp_path))
    twice = _values(("ConvNet", "ConvNet"))
    with pytest.raises(ValueError, match="each network once, got ConvNet,ConvNet"):
        shapes.run(twice, str(tmp_path))
    with pytest.raises(ValueError, match="must name networks, got None"):
        shapes.run(run_helpers.tiny_config().to_dict(), str(tmp_path))


def _save_sets(folder):
    """Two sets of two images of each class."""
    dataset = load_dataset("digits")
    members = np.stack(
        [np.flatnonzero(dataset.train_labels == label)[:4] for label in range(10)]
    )
    paths = [str(folder / f"{name}.npz") for name in "ab"]
    for path, indices in zip(paths, np.split(members, 2, axis=1), strict=True):
        coreset = make_coreset(indices.astype(np.int32), dataset)
        set_file.save_synthetic_set(path, coreset)
    return paths


def _values(names, **changes):
    changes = {"evaluation.network": ",".join(names), **changes}
    return run_helpers.tiny_config(**changes).to_dict()


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(NAMES[:2], marks=pytest.mark.slow),
        pytest.param(("ConvNetD1W8BNAS", "ConvNetD1W8BNMP"), marks=pytest.mark.slow),
    ],
)
def test_on_sets_they_are_as_by_themselves(names, tmp_path):
    changes = {"evaluation.epochs": 30, "evaluation.lr": 0.1}
    sets = _save_sets(tmp_path)
    result = shapes.run(_values(names, **changes), str(tmp_path / "shape"), *sets)
    assert list(result["networks"]) == list(names)
    for name, ours in result["networks"].items():
        config = Config.create(_values([name], **changes))
        (alone,) = runner.evaluate(config, sets[0])
        assert np.shape(ours["accuracies"]) == (2, config.num_evaluations)
        # The first set of both has the same networks.
        np.testing.assert_allclose(
            ours["accuracies"][:1], alone["accuracies"], atol=0.006
        )
    means = [one["accuracy_mean"] for one in result["networks"].values()]
    assert len(set(means)) > 1  # They are not one network.
    written = json.loads((tmp_path / "shape" / "result.json").read_text())
    assert written == result


def test_a_result_is_of_its_sets_wherever_they_are(tmp_path):
    a, b = _save_sets(tmp_path)
    moved = tmp_path / "moved"
    moved.mkdir()
    values, folder = _values(NAMES[:1]), str(tmp_path / "shape")
    of_a = shapes.run(values, folder, a)
    shutil.move(a, moved / set_file.SET_NAME)
    assert shapes.run(values, folder, str(moved)) == of_a
    of_b = shapes.run(values, folder, b)
    assert of_b["made_with"] != of_a["made_with"]
    assert shapes.run(values, folder, b) == of_b


@pytest.mark.slow
def test_on_the_whole_set_they_are_as_by_themselves(tmp_path, monkeypatch):
    changes = {
        "method": "whole",
        "evaluation.epochs": 3,  # The second half has an optimiser of its own.
        "eval_every": 1,
        "num_evaluations": 1,
        "num_experiments": 1,
    }
    names = NAMES[1:]
    result = shapes.run(_values(names, **changes), str(tmp_path / "shape"))
    for name, ours in result["networks"].items():
        config = Config.create(_values([name], **changes))
        alone = runner.condense(config, str(tmp_path / name))
        for key in ("accuracies", "accuracies_on_the_way"):
            np.testing.assert_allclose(ours[key], alone[key], atol=0.006)
    assert np.shape(ours["accuracies_on_the_way"]) == (1, 4)

    def refuse(*_):
        raise AssertionError("trained again")

    # They are found again, and so is the result.
    monkeypatch.setattr(WholeTrainer, "_update", refuse)
    again = shapes.run(_values(names, **changes), str(tmp_path / "shape"))
    assert again == result
    with pytest.raises(ValueError, match=r"a run with config\.seed = 0, not 1"):
        shapes.run(_values(names, seed=1, **changes), str(tmp_path / "shape"))
    (tmp_path / "shape" / "result.json").unlink()
    again = shapes.run(_values(names, **changes), str(tmp_path / "shape"))
    assert again["networks"] == result["networks"]


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["map", "vmap"])
def test_several_go_on_where_they_were_stopped(loop, tmp_path, monkeypatch):
    changes = {
        "method": "whole",
        "evaluation.epochs": 2,
        "num_evaluations": 1,
        "num_experiments": 1,
        "execution.network_loop": loop,
    }
    values = _values(NAMES[1:], **changes)
    whole = shapes.run(values, str(tmp_path / "whole"))
    update = WholeTrainer._update

    def stop(self, training, *args):
        update(self, training, *args)
        if training.step == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(WholeTrainer, "_update", stop)
    with pytest.raises(Stopped):
        shapes.run(values, str(tmp_path / "stopped"))
    monkeypatch.setattr(WholeTrainer, "_update", update)
    result = shapes.run(values, str(tmp_path / "stopped"))
    assert result["networks"] == whole["networks"]


@pytest.mark.slow
def test_one_of_several_that_fails_does_not_end_the_others(tmp_path, caplog):
    changes = {
        "method": "whole",
        "evaluation.epochs": 1,
        "evaluation.lr": 1e4,
        "num_evaluations": 1,
        "num_experiments": 1,
    }
    # Of a sigmoid the gradient is bounded.
    with caplog.at_level("WARNING"):
        result = shapes.run(_values(NAMES, **changes), str(tmp_path))
    assert set(result["networks"]) == set(NAMES)
    assert "became NaN or infinite: try a smaller config.evaluation.lr" in caplog.text

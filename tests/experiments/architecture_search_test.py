"""The search of architectures: its space, its rankings and its table."""

import numpy as np
import pytest

from configs.experiments import architecture_search as search_config
from dc_jax.evaluation.protocol import NAMED
from dc_jax.networks import make_network
from experiments.architecture_search import __main__ as search
from experiments.sweep import experiment

SHAPE = (28, 28, 1)


@pytest.mark.parametrize(("size", "num"), [("paper", 720), ("cpu", 48)])
def test_the_space_is_of_different_networks(size, num):
    names = search.networks(search_config.get_config(size).space)
    assert len(set(names)) == num
    modules = {repr(make_network(name, 10, SHAPE)) for name in names}
    assert len(modules) == num


def test_cells(tmp_path):
    config = search_config.get_config("cpu")
    cells = search.make_cells(config)
    experiment.check_cells(cells, tmp_path)
    # Three proxies and the images of early stopping; networks of eight shapes.
    assert len(cells) == 4 + 3 * 8
    on_sets, early, whole = cells[4:7]
    assert [cell.name for cell in on_sets.evaluates] == list(config.proxies)
    assert [cell.name for cell in early.evaluates] == ["early_stopping"]
    assert whole.evaluates == ()
    assert all(cell.values()["dataset"]["validation"] == 5000 for cell in cells)
    names = on_sets.values()["evaluation"]["network"].split(",")
    assert len(names) == 6
    command = on_sets.command(tmp_path)
    assert command[1:3] == ["-m", "experiments.architecture_search.run"]
    assert not any("--mode" in part for part in command)


def test_early_stopping_trains_for_as_many_steps_as_on_sets():
    config = search_config.get_config()
    cells = search.make_cells(config)
    num = len(config.proxies)
    values = [cell.values() for cell in (cells[0], cells[num], *cells[num + 1 :][:2])]
    proxy, chosen, on_sets, early = values
    images = 10 * proxy["ipc"]
    assert images <= NAMED["paper"].batch_size  # A step is an epoch.
    steps = on_sets["evaluation"]["epochs"] + 1
    shown = 10 * chosen["ipc"] * (early["evaluation"]["epochs"] + 1)
    assert shown == images * steps == 10_000
    assert shown / early["evaluation"]["batch_size"] == steps


def test_rank_correlation():
    proxy = np.array([0.1, 0.2, 0.3, 0.4])
    # Ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * 4 / (4 * 15).
    whole = np.array([0.6, 0.5, 0.9, 0.8])
    assert search.rank_correlation(proxy, whole, 4) == pytest.approx(0.6)
    # Of the best two by the proxy, 3 and 4, the other is the better.
    assert search.rank_correlation(proxy, whole, 2) == pytest.approx(-1)
    assert np.isnan(search.rank_correlation(proxy, np.ones(4), 4))


def test_interval():
    rng = np.random.default_rng(1)
    whole = rng.random(60)
    low, high = search.interval(whole + 0.5 * rng.random(60), whole, 60)
    assert 0.5 < low < high < 1
    # Of a proxy that says nothing.
    low, high = search.interval(rng.random(60), whole, 60)
    assert low < 0 < high
    assert np.isnan(search.interval(whole[:9], whole[:9], 9)).all()


def test_interval_leaves_out_samples_without_a_correlation():
    # Of the best two by the proxy, which are equal, one is often drawn twice.
    whole = np.arange(12.0)
    proxy = np.minimum(whole, 10)
    assert np.isnan(search.rank_correlation(proxy, whole, 2))
    low, high = search.interval(proxy, whole, 12)
    assert 0.8 < low < high <= 1
    assert np.isfinite(search.interval(proxy, whole, 3)).all()


def _rows(accuracies_by_network):
    """Rows of a sweep: on two sets, after an epoch, after both; in percent."""
    rows = [
        {"set": name, "result": {"training_images": num}}
        for name, num in (("herding", 10), ("dc", 10), ("early stopping", 100))
    ]
    results = {"sets": {}, "early stopping": {}, "whole": {}}
    for name, (herding, dc, early, whole) in accuracies_by_network.items():
        results["sets"][name] = {"accuracies": [[dc - 1, dc + 1], [herding, herding]]}
        results["early stopping"][name] = {"accuracy_mean": early}
        results["whole"][name] = {"accuracy_mean": whole}
    seconds = {"sets": 120, "early stopping": 60, "whole": 600}
    # Two networks have one shape, the third another.
    for shape, names in (("S", "AB"), ("T", "C")):
        rows += [
            {
                "shape": shape,
                "trained on": trained_on,
                "result": {
                    "networks": {name: of_all[name] for name in names},
                    "seconds": len(names) * seconds[trained_on],
                    "training_images": 1000,
                },
            }
            for trained_on, of_all in results.items()
        ]
    return rows


def test_the_best_are_trained_again_and_stand_in_the_table(tmp_path):
    config = search_config.get_config("smoke")
    config.proxies = {"dc": {}, "herding": {}}
    rows = _rows({"A": (3, 5, 4, 9), "B": (2, 7, 9, 8), "C": (1, 9, 2, 7)})
    cells = search.make_more(config, rows)
    # The best by DC, by herding, and by early stopping; by the whole set A again.
    assert [cell.labels["network"] for cell in cells] == ["C", "A", "B"]
    assert cells[1].values()["dataset"]["validation"] is None
    again = {"accuracy_mean": 0.5}
    rows.append({"network": "A", "trained on": "everything", "result": again})
    text = search.report(config, rows, tmp_path)
    lines = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    table = {line[1]: line[2:-1] for line in lines if len(line) == 10}
    assert table["herding"][0] == "1.00"
    assert table["dc"][0] == "-1.00"
    assert table["early stopping"][0] == "0.50"
    assert table["herding"][2:] == [
        *("A", "900.0", "50.0 (76.2)", "3.0 (18.8)", "10 (100)"),
    ]
    assert table["early stopping"][4:] == [
        *("? (84.5)", "3.0 (18.8)", "100 (10000)"),
    ]
    assert table["whole"][5] == "30.0 (8604.3)"
    assert (tmp_path / "architecture_search.png").stat().st_size > 1000

"""The search of architectures: its space, its rankings and its table."""

import numpy as np
import pytest

from configs.experiments import architecture_search as search_config
from dc_jax.networks import make_network
from experiments import architecture_search as search
from experiments import sweep

SHAPE = (28, 28, 1)


@pytest.mark.parametrize(("size", "num"), [("paper", 720), ("cpu", 48)])
def test_the_space_is_of_different_networks(size, num):
    names = search.networks(search_config.get_config(size).space)
    assert len(set(names)) == num
    modules = {repr(make_network(name, 10, SHAPE)) for name in names}
    assert len(modules) == num


def test_cells():
    config = search_config.get_config("cpu")
    cells = search.make_cells(config)
    sweep.check_cells(cells)
    assert len(cells) == 3 + 2 * 48
    assert [cell.name for cell in cells[3].evaluates] == list(config.proxies)
    assert all(cell.values()["dataset"]["validation"] == 5000 for cell in cells)


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


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"early": 0}, "early"),
        ({"early": 4}, "early"),
        ({"on_whole.eval_every": 2}, "every"),
    ],
)
def test_early_stopping_is_at_an_epoch_that_is_tested(changes, field):
    config = search_config.get_config("smoke")
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=field):
        search.make_cells(config)


def _rows(accuracies_by_network):
    """Rows of a sweep: on two sets, after an epoch, after both; in percent."""
    rows = [
        {"set": name, "result": {"training_images": 10}} for name in ("herding", "dc")
    ]
    for name, (herding, dc, early, whole) in accuracies_by_network.items():
        on_sets = {"accuracies": [[dc - 1, dc + 1], [herding, herding]], "seconds": 120}
        on_whole = {
            "accuracy_mean": whole,
            "accuracies_on_the_way": [[early, whole]],
            "seconds": 600,
            "training_images": 1000,
        }
        rows.append({"network": name, "trained on": "sets", "result": on_sets})
        rows.append({"network": name, "trained on": "whole", "result": on_whole})
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
        *("? (84.5)", "15.0 (18.8)", "1000 (10000)"),
    ]
    assert table["whole"][5] == "30.0 (8604.3)"
    assert (tmp_path / "architecture_search.png").stat().st_size > 1000

"""Table 4 of the paper: finds the best ConvNet by training all on a small set.

  python -m experiments.architecture_search --output=runs/search

Every network of the space is trained on the whole training set, and on each of several
small sets, the proxies. "Early stopping" is one more proxy: it trains once on as many
training images as a small set shows a network in all its epochs. A proxy is good if it
ranks the networks as the whole set does. Networks are ranked by their accuracy on
held-out training images. The network that each proxy ranks first is then trained on all
training images, and tested.

Networks of one shape differ only in activation, or in which pooling they have. They are
one cell of the sweep: one program trains them side by side.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from experiments.architecture_search.side_by_side import shape_name
from experiments.sweep import experiment, tables
from experiments.sweep.cells import Cell, flatten
from experiments.sweep.paper import TABLE4, Search
from experiments.sweep.results import Row

WHOLE, EARLY = "whole", "early stopping"
# What the networks of a row of the sweep are trained on, besides the two above.
_SETS, _EVERYTHING = "sets", "everything"
_TOP = 10


def networks(space: Iterable[Iterable[str]]) -> list[str]:
    """Returns the names of a space's networks: one suffix from each of its axes."""
    return [f"ConvNet{''.join(parts)}" for parts in itertools.product(*space)]


def shapes(names: Iterable[str]) -> dict[str, list[str]]:
    """Returns the networks of each shape, by its name."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(shape_name(name), []).append(name)
    return groups


def make_cells(config: ConfigDict) -> list[Cell]:
    """Returns the runs that make the sets, and three runs for each shape."""
    file = f"configs/{config.dataset}.py"
    run = flatten(config.run) | {"dataset.validation": config.validation}

    def make_set(name: str, fields: ConfigDict) -> Cell:
        return Cell({"set": name}, file, run | flatten(fields) | {"num_evaluations": 1})

    sets = [make_set(name, fields) for name, fields in config.proxies.items()]
    early = make_set(EARLY, config.early)
    cells = [*sets, early]
    for shape, names in shapes(networks(config.space)).items():
        for trained_on, fields, evaluated in (
            (_SETS, config.on_sets, sets),
            (EARLY, config.on_early, [early]),
            (WHOLE, {**config.on_whole, "method": "whole"}, []),
        ):
            changes = run | flatten(fields) | {"evaluation.network": ",".join(names)}
            cells.append(
                Cell(
                    {"shape": shape, "trained on": trained_on},
                    *(file, changes, tuple(evaluated)),
                    module="experiments.architecture_search.run",
                )
            )
    return cells


def make_more(config: ConfigDict, rows: list[Row]) -> list[Cell]:
    """Returns the runs that train the best networks on all training images."""
    scores = find_scores(config, rows).values()
    best = dict.fromkeys(max(one, key=one.get) for one in scores)
    changes = flatten(config.run) | flatten(config.on_everything) | {"method": "whole"}
    return [
        Cell(
            {"network": name, "trained on": _EVERYTHING},
            f"configs/{config.dataset}.py",
            changes | {"evaluation.network": name},
        )
        for name in best
    ]


def _results(rows: list[Row], trained_on: str) -> dict[str, dict]:
    """Returns the results of the networks, by their names."""
    results = {}
    for row in rows:
        if row.get("trained on") == trained_on:
            one = {row["network"]: row["result"]} if "network" in row else {}
            results |= row["result"].get("networks", one)
    return results


def find_scores(config: ConfigDict, rows: list[Row]) -> dict[str, dict[str, float]]:
    """Returns for each proxy the accuracy of the networks on held-out images, by name.

    Networks whose runs are not all finished are left out.
    """
    on_sets, early, whole = (_results(rows, name) for name in (_SETS, EARLY, WHOLE))
    names = [name for name in on_sets if name in early and name in whole]
    scores = {
        proxy: {n: float(np.mean(on_sets[n]["accuracies"][place])) for n in names}
        for place, proxy in enumerate(config.proxies)
    }
    scores[EARLY] = {n: early[n]["accuracy_mean"] for n in names}
    scores[WHOLE] = {n: whole[n]["accuracy_mean"] for n in names}
    return scores


def rank_correlation(proxy: np.ndarray, whole: np.ndarray, top: int) -> float:
    """Returns Spearman's correlation over the networks that a proxy ranks highest.

    Args:
      proxy: accuracy of each network. Shape `[n]`.
      whole: the same, trained on the whole set. Shape `[n]`.
      top: how many.

    Returns:
      The correlation; NaN if all accuracies of `proxy`, or all of `whole`, are equal.
    """
    best = np.argsort(-proxy, kind="stable")[:top]
    if np.ptp(proxy[best]) == 0 or np.ptp(whole[best]) == 0:
        return float("nan")
    return float(stats.spearmanr(proxy[best], whole[best]).statistic)


def interval(proxy: np.ndarray, whole: np.ndarray, top: int) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of `rank_correlation` over networks.

    Samples without a correlation are left out. The interval is NaN for fewer than ten
    networks, whose samples are too often all the same.
    """
    if len(proxy) < _TOP:
        return float("nan"), float("nan")
    samples = np.random.default_rng(0).integers(len(proxy), size=(2000, len(proxy)))
    values = [rank_correlation(proxy[i], whole[i], top) for i in samples]
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def report(config: ConfigDict, rows: list[Row], folder: Path) -> str:
    """Writes the figure and the table, and returns the table."""
    scores = find_scores(config, rows)
    if len(scores[WHOLE]) < 2:
        return f"{len(scores[WHOLE])} of {len(networks(config.space))} networks."
    _plot(scores, folder / "architecture_search.png")
    everything = _results(rows, _EVERYTHING)
    lines = []
    for proxy, accuracies in scores.items():
        best = max(accuracies, key=accuracies.get)
        paper = TABLE4.get(proxy, Search("–", "–", "–", "–"))
        retrained = everything.get(best)
        lines.append(
            [
                proxy,
                *_correlations(accuracies, scores[WHOLE], paper),
                best,
                f"{100 * scores[WHOLE][best]:.1f}",
                (f"{100 * retrained['accuracy_mean']:.1f}" if retrained else "?")
                + f" ({paper.accuracy})",
                f"{_minutes(config, rows, proxy):.1f} ({paper.minutes})",
                f"{_images(rows, proxy)} ({paper.images})",
            ]
        )
    head = (
        *("proxy", "Spearman, all", f"Spearman, top {_TOP}", "best network"),
        *("on held-out images, %", "on test images, %", "minutes", "images stored"),
    )
    text = (
        f"{tables.markdown(head, lines)}\n\n{len(scores[WHOLE])} networks; Spearman's "
        "rank correlation with training on the whole set, with the 95 % interval of a "
        "bootstrap over networks; nan if all accuracies are equal. Accuracies are of "
        "the best network, trained on the whole set. Minutes are for training all "
        "networks, compilation included. In brackets are the paper's numbers: 720 "
        "networks on CIFAR-10, on a GTX 1080 Ti.\n"
    )
    (folder / "architecture_search.md").write_text(text, "utf-8")
    return text


def _correlations(proxy: dict, whole: dict, paper: Search) -> list[str]:
    """Returns the correlations over all and over the top, as text."""
    arrays = (np.array(list(proxy.values())), np.array(list(whole.values())))
    texts = []
    for top in (len(whole), _TOP):
        low, high = interval(*arrays, top)
        value = rank_correlation(*arrays, top)
        spread = f", {low:.2f} to {high:.2f}" if np.isfinite(low) else ""
        texts.append(f"{value:.2f}{spread}")
    texts[1] += f" ({paper.correlation})"
    return texts


def _minutes(config: ConfigDict, rows: list[Row], proxy: str) -> float:
    """Returns the time to train and test all networks once for a ranking."""
    is_set = proxy not in (WHOLE, EARLY)
    trained_on, num = (_SETS, len(config.proxies)) if is_set else (proxy, 1)
    seconds = [
        row["result"]["seconds"] for row in rows if row.get("trained on") == trained_on
    ]
    return sum(seconds) / 60 / num


def _images(rows: list[Row], proxy: str) -> int | str:
    """Returns how many images are kept to train on; "?" if the set is not made yet."""
    label, value = ("trained on", WHOLE) if proxy == WHOLE else ("set", proxy)
    results = [row["result"] for row in rows if row.get(label) == value]
    return results[0]["training_images"] if results else "?"


def _plot(scores: dict[str, dict[str, float]], path: Path) -> None:
    # Not before: it takes long to import.
    from matplotlib.figure import Figure

    proxies = [name for name in scores if name != WHOLE]
    figure = Figure(figsize=(3.2 * len(proxies), 3.4), layout="constrained")
    whole = 100 * np.array(list(scores[WHOLE].values()))
    for place, name in enumerate(proxies):
        axes = figure.add_subplot(1, len(proxies), place + 1)
        proxy = 100 * np.array(list(scores[name].values()))
        axes.plot(proxy, whole, ".")
        axes.set(xlabel="accuracy with proxy, %", title=name)
        if not place:
            axes.set_ylabel("accuracy with whole set, %")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    experiment.main(
        make_cells,
        report,
        default="configs/experiments/architecture_search.py",
        make_more=make_more,
    )

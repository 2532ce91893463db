"""How accuracies are written, in the log and on pages alike."""

from collections.abc import Mapping
from typing import Any


def spread(std: float, num_networks: int | None, digits: int = 1) -> str:
    """Returns ` ± ` and a standard deviation, a fraction, in percent.

    That is nothing for a single network, which has none. None: their number is unknown.
    """
    return "" if num_networks == 1 else f" ± {100 * std:.{digits}f}"


def in_percent(result: Mapping[str, Any]) -> str:
    """Returns the accuracy of a result, see `run.saving.summarise`, as for a table."""
    mean, std = result["accuracy_mean"], result["accuracy_std"]
    return f"{100 * mean:.1f}{spread(std, num_networks(result))} %"


def num_networks(result: Mapping[str, Any]) -> int | None:
    """Returns how many networks the accuracies of a result are of, None if unknown."""
    match result:
        case {"num_experiments": int(sets), "num_evaluations": int(each)}:
            return sets * each
        case {"accuracies": [*of_sets]}:  # A row of a comparison.
            return sum(len(one) for one in of_sets if isinstance(one, list))
    return None

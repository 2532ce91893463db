"""Whether more iterations may help: how loss and accuracy ended, in a sentence."""

from collections.abc import Sequence

import numpy as np

# The share of the iterations at the end that are compared with as many before, and the
# fall that counts, as a fraction, if noise is small.
_SHARE, _LEAST = 10, 0.01


def loss_trend(losses: Sequence[float]) -> str:
    """Returns what the losses of all iterations say, "" if there are fewer than 20.

    The mean of the last tenth is compared with that of the tenth before. A fall counts
    if it is more than 1 % and twice its standard error.
    """
    num = len(losses) // _SHARE
    if num < 2:
        return ""
    both = np.reshape(losses[-2 * num :], (2, num))
    before, now = both.mean(axis=1)
    error = np.sqrt(both.var(axis=1, ddof=1).sum() / num)
    if before - now > max(_LEAST * abs(before), 2 * error):
        percent = 100 * (before - now) / (abs(before) or abs(now))
        return (
            f"The loss still fell by {percent:.0f} % over the last tenth of the "
            "iterations: more iterations may help."
        )
    return "The loss is level over the last fifth of the iterations."


def accuracy_trend(
    iterations: Sequence[int],
    means: Sequence[float],
    stds: Sequence[float],
    num_networks: int,
) -> str:
    """Returns what the last two accuracies say, in percent; "" if there are fewer.

    Each is the mean of `num_networks` networks. A rise counts if it is twice its
    standard error.
    """
    if len(means) < 2:
        return ""
    rise = means[-1] - means[-2]
    error = np.hypot(*stds[-2:]) / np.sqrt(num_networks)
    since = f"from iteration {iterations[-2]:,} to {iterations[-1]:,}"
    if rise > 2 * error:
        return (
            f"The accuracy still rose by {rise:.1f} points {since}: more iterations "
            "may help."
        )
    return f"The accuracy did not rise clearly {since}."

"""What the end of a curve says, by hand."""

import pytest

from dc_jax.report.trend import accuracy_trend, loss_trend

FALLS = "still fell by {} % over the last tenth"


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (16 * [9.0] + [10, 10, 9.6, 9.6], FALLS.format(4)),
        # A tenth are two: 8, then 6.
        (16 * [9.0] + [8, 8, 6, 6], FALLS.format(25)),
        # 10, then 9, each with an error of 0.71: together it is 1, and twice that 2.
        (16 * [9.0] + [9.29, 10.71, 8.29, 9.71], "level"),
        # With an error of 0.14, together 0.2.
        (16 * [9.0] + [9.86, 10.14, 8.86, 9.14], FALLS.format(10)),
        (16 * [9.0] + [10, 10, 9.91, 9.91], "level"),  # 0.9 %.
        (16 * [9.0] + [9, 9, 10, 10], "level"),
        (20 * [0.0], "level"),
        # The loss of some methods may be negative.
        (16 * [0.0] + [-1, -1, -2, -2], FALLS.format(100)),
    ],
)
def test_losses(losses, expected):
    assert expected in loss_trend(losses)


def test_few_losses_say_nothing():
    assert loss_trend([float(i) for i in range(19, 0, -1)]) == ""


@pytest.mark.parametrize(
    ("means", "stds", "num", "expected"),
    [
        # The error of the rise is 5 / sqrt(100): it counts from 1 point on.
        ([50, 60, 61.5], [9, 3, 4], 100, "still rose by 1.5 points from iteration 10"),
        (
            [50, 60, 60.5],
            [9, 3, 4],
            100,
            "not rise clearly from iteration 10 to 15",
        ),
        ([60, 50], [0, 0], 1, "did not rise"),
    ],
)
def test_accuracies(means, stds, num, expected):
    text = accuracy_trend([5, 10, 15][: len(means)], means, stds, num)
    assert expected in text


def test_one_accuracy_says_nothing():
    assert accuracy_trend([5], [50.0], [1.0], 4) == ""

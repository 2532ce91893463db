"""Options and strict settings of the tests."""

from pathlib import Path

import jax

GOLDEN_DIR = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption(
        "--golden-dir",
        default=str(GOLDEN_DIR),
        metavar="DIR",
        help="folder of the golden files <Network>_<1|3>ch.npz (default: tests/golden)",
    )


def pytest_configure():
    # An implicit broadcast between ranks is how a missing axis goes unnoticed.
    jax.config.update("jax_numpy_rank_promotion", "raise")

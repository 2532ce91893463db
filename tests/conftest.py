"""Options and strict settings of the tests."""

import functools
import gc
import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest

from dc_jax.devices import layout

GOLDEN_DIR = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption(
        "--golden-dir",
        default=str(GOLDEN_DIR),
        metavar="DIR",
        help="folder of the golden files <Network>_<1|3>ch.npz (default: tests/golden)",
    )


def pytest_configure(config):
    # For the tests of meshes; all others run on the first.
    jax.config.update("jax_num_cpu_devices", 4)
    layout.wait_for_slow_devices()
    # An implicit broadcast between ranks is how a missing axis goes unnoticed.
    jax.config.update("jax_numpy_rank_promotion", "raise")
    # The same small run is made many times, here and in processes that tests start.
    folder = tempfile.mkdtemp(prefix="dc_jax_compiled_")
    config.add_cleanup(functools.partial(shutil.rmtree, folder, ignore_errors=True))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    # What a test decodes is not what the user finds.
    os.environ["DC_JAX_CACHE"] = "off"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


# Of a class, so that what its tests share is compiled so, too.
@pytest.fixture(scope="class")
def quick_compile():
    """Optimises programs little, where compiling them is what takes the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module", autouse=True)
def _free_memory():
    """Forgets the programs of a module: all of them would take gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()

"""What the tests of experiments share."""

import jax
import pytest


@pytest.fixture(scope="module")
def quick_compile_all():
    """Optimises all programs of a module's tests little: compiling takes most time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)

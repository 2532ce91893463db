"""The programs of a run, compiled for a TPU v5e that need not be there.

A TPU computes the gradient of a kernel as a convolution whose window is as large as the
image, and runs that well. Under `jax.vmap` of networks or classes the windows get a
third side, the number of networks, which by the compiler's cycles is slower.
"""

import pytest
from chip_helpers import SMALL, compile_step, compile_training, is_missing

from experiments.plan import compiling

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        is_missing("v5e"),
        reason='the compiler for TPUs is missing: pip install -e ".[plan]"',
    ),
]
MIB = 2**20
# The rows of the images and of the features after pooling: of kernels' gradients.
GRADIENTS = {32, 16, 8}


@pytest.fixture(autouse=True)
def _small_dataset(monkeypatch):
    monkeypatch.setitem(compiling.DATASETS, "cifar10", SMALL)


def _check(compiled, *, mebibytes: int, has_kernel_gradients: bool = True) -> None:
    sides = {side for conv in compiled.convolutions for side in conv.window}
    large = {side for side in sides if side > 5}
    assert large <= GRADIENTS
    assert bool(large) == has_kernel_gradients
    assert compiled.temporary_bytes < mebibytes * MIB


def test_gradient_matching():
    _check(compile_step("v5e:2x2"), mebibytes=100)


def test_gradient_matching_with_augmentation():
    _check(compile_step("v5e:2x2", method="dsa"), mebibytes=100)


def test_distribution_matching_has_no_gradients_of_kernels():
    compiled = compile_step("v5e:2x2", method="dm")
    _check(compiled, mebibytes=100, has_kernel_gradients=False)


def test_training_of_evaluation_networks():
    _check(compile_training("v5e:2x2"), mebibytes=1000)

"""The programs of a run, compiled for an H100 that need not be there.

cuDNN runs the gradient of a kernel slowly where XLA writes it as a forward convolution
whose window is as large as the image. XLA does so for `jax.vmap` of networks or classes
with native convolutions, see `networks/mapped.py`.
"""

import pytest
from chip_helpers import SMALL, compile_step, compile_training, is_missing

from experiments.plan import compiling

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        is_missing("h100"),
        reason='the compiler for GPUs is missing: pip install -e ".[plan]"',
    ),
]
MIB = 2**20


@pytest.fixture(autouse=True)
def _small_dataset(monkeypatch):
    monkeypatch.setitem(compiling.DATASETS, "cifar10", SMALL)


def _kinds(compiled) -> set[str]:
    return {conv.kind for conv in compiled.convolutions}


def _check(compiled, *, mebibytes: int, has_kernel_gradients: bool = True) -> None:
    kinds = _kinds(compiled)
    # The compiler left no convolution without a function of cuDNN.
    assert all("__cudnn$conv" in kind for kind in kinds), kinds
    assert compiled.largest_window <= 5
    assert ("__cudnn$convBackwardFilter" in kinds) == has_kernel_gradients
    assert compiled.temporary_bytes < mebibytes * MIB


@pytest.mark.parametrize("num_experiments", [1, 5])
def test_gradient_matching(num_experiments):
    _check(compile_step("h100", num_experiments=num_experiments), mebibytes=100)


def test_gradient_matching_with_augmentation():
    _check(compile_step("h100", method="dsa"), mebibytes=100)


def test_distribution_matching_has_no_gradients_of_kernels():
    compiled = compile_step("h100", method="dm")
    _check(compiled, mebibytes=100, has_kernel_gradients=False)


def test_training_of_evaluation_networks():
    _check(compile_training("h100"), mebibytes=100)


def test_native_convolutions_of_several_networks_have_windows_of_an_image():
    """What the tests above would find."""
    execution = {"convolution": "native", "network_loop": "vmap"}
    compiled = compile_step("h100", num_experiments=2, execution=execution)
    assert compiled.largest_window >= 16

"""A synthetic set and its networks in PyTorch, and how PyTorch runs them."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from experiments.benchmark.cases import Case


@dataclasses.dataclass(frozen=True)
class Options:
    """How PyTorch runs a workload.

    Attributes:
      channels_last: images and kernels have their channels last in memory.
      bfloat16: layers compute in bfloat16 where `torch.autocast` thinks it right.
      compile: mode of `torch.compile`; None runs eagerly.
      vmap: all classes are matched at once.
    """

    channels_last: bool = False
    bfloat16: bool = False
    compile: str | None = None
    vmap: bool = False

    def compiled(self, function: Any) -> Any:
        if self.compile is None:
            return function
        return torch.compile(function, mode=self.compile, dynamic=False)

    def autocast(self, device: str) -> Callable[[], Any]:
        """Returns what makes the context of a forward pass."""
        if not self.bfloat16:
            return contextlib.nullcontext
        return functools.partial(torch.autocast, device, torch.bfloat16)

    def arranged(self, thing: Any) -> Any:
        """Returns images or a network in the right order in memory."""
        if not self.channels_last:
            return thing
        return thing.to(memory_format=torch.channels_last)


class ConvNet(nn.Module):
    """Blocks of a 3x3 convolution, instance norm, ReLU and 2x2 average pooling."""

    def __init__(self, case: Case, autocast: Callable[[], Any]):
        super().__init__()
        self.autocast = autocast  # The context of the forward pass.
        is_padded = case.side == 28  # To 32x32, as in the paper.
        blocks, channels = [], case.channels
        for index in range(case.depth):
            padding = 3 if is_padded and index == 0 else 1
            blocks += [
                nn.Conv2d(channels, case.width, 3, padding=padding),
                nn.GroupNorm(case.width, case.width),
                nn.ReLU(inplace=True),
                nn.AvgPool2d(2),
            ]
            channels = case.width
        self.features = nn.Sequential(*blocks)
        side = (32 if is_padded else case.side) // 2**case.depth
        self.classifier = nn.Linear(case.width * side**2, case.classes)

    def forward(self, x: torch.Tensor, *, classify: bool = True) -> torch.Tensor:
        """Returns the logits, or the embedding that they are computed from."""
        with self.autocast():
            x = self.features(x).flatten(1)
            if classify:
                x = self.classifier(x)
        return x.float()


def make_network(case: Case, options: Options) -> ConvNet:
    autocast = options.autocast("cuda" if case.device == "gpu" else "cpu")
    return options.arranged(ConvNet(case, autocast))


class Experiment:
    """A synthetic set and its networks."""

    def __init__(self, case: Case, options: Options):
        self.case, self.options = case, options
        self.networks = [make_network(case, options) for _ in range(case.networks)]
        self.images = self.random_images(case.classes * case.ipc)
        self.labels = torch.arange(case.classes).repeat_interleave(case.ipc)

    def random_images(self, num: int) -> torch.Tensor:
        case = self.case
        images = torch.randn(num, case.channels, case.side, case.side)
        return self.options.arranged(images)

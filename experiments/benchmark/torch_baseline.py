"""The same workloads in plain PyTorch, as a user would write them.

They run one class and one network after another, in float32, on all cores, without
`torch.compile` (it has no second derivatives). They do two things less than this
project's programs: networks are made and real images chosen once, not in every step.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from experiments.benchmark.cases import Case


class ConvNet(nn.Module):
    """Blocks of a 3x3 convolution, instance norm, ReLU and 2x2 average pooling."""

    def __init__(self, case: Case):
        super().__init__()
        is_padded = case.side == 28  # To 32x32, as in the paper.
        blocks, channels = [], 1
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

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.embed(x))


def prepare(case: Case) -> tuple[Callable[[], None], Callable[[], dict[str, Any]]]:
    """Returns functions that run a workload and that report on it."""
    networks = [ConvNet(case) for _ in range(case.networks)]
    run = WORKLOADS[case.workload](case, networks)

    def facts() -> dict[str, Any]:
        return {"version": torch.__version__, "threads": torch.get_num_threads()}

    return run, facts


def outer_step(case: Case, networks: list[ConvNet]) -> Callable[[], None]:
    """One update of the images by the gradients of all classes."""

    def class_loss(network: ConvNet, synthetic, real, label: int) -> torch.Tensor:
        grads_real = _gradient(network, real, label, create_graph=False)
        grads_syn = _gradient(network, synthetic, label, create_graph=True)
        return sum(map(layer_distance, grads_real, grads_syn))

    return _matching(case, networks, class_loss, lr=0.1)


def inner_epoch(case: Case, networks: list[ConvNet]) -> Callable[[], None]:
    """One epoch of training on the synthetic set, as between two outer steps."""
    return _epoch(case, networks, {"lr": 0.01})


def eval_epoch(case: Case, networks: list[ConvNet]) -> Callable[[], None]:
    """One epoch of the training of evaluation networks."""
    return _epoch(case, networks, {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4})


def test_10k(case: Case, networks: list[ConvNet]) -> Callable[[], None]:
    """One pass over the test images."""
    images = torch.randn(case.num_test, 1, case.side, case.side)
    labels = torch.arange(case.num_test) % case.classes

    @torch.no_grad()
    def run() -> None:
        for network in networks:
            right = 0
            batches = zip(images.split(256), labels.split(256), strict=True)
            for batch, expected in batches:
                right += (network(batch).argmax(1) == expected).sum().item()

    return run


def dm_step(case: Case, networks: list[ConvNet]) -> Callable[[], None]:
    """One update of the images by distribution matching, without augmentation."""

    def class_loss(network: ConvNet, synthetic, real, label: int) -> torch.Tensor:
        del label
        with torch.no_grad():
            target = network.embed(real).mean(0)
        return ((network.embed(synthetic).mean(0) - target) ** 2).sum()

    return _matching(case, networks, class_loss, lr=1.0)


WORKLOADS = {
    "outer_step": outer_step,
    "inner_epoch": inner_epoch,
    "eval_epoch": eval_epoch,
    "test_10k": test_10k,
    "dm_step": dm_step,
}


def layer_distance(real: torch.Tensor, synthetic: torch.Tensor) -> torch.Tensor:
    """One minus the cosine, summed over output units; 0 for vectors."""
    if real.ndim == 1:
        return torch.zeros(())
    real, synthetic = real.flatten(1), synthetic.flatten(1)
    norms = real.norm(dim=1) * synthetic.norm(dim=1)
    return (1 - (real * synthetic).sum(1) / (norms + 1e-6)).sum()


def _matching(
    case: Case,
    networks: list[ConvNet],
    class_loss: Callable[..., torch.Tensor],
    *,
    lr: float,
) -> Callable[[], None]:
    """One update of the images by a loss, summed over classes, mean over networks."""
    real = torch.randn(case.classes, case.batch_real, 1, case.side, case.side)
    images, _ = _synthetic_set(case)
    images.requires_grad_()
    optimiser = torch.optim.SGD([images], lr=lr, momentum=0.5)

    def run() -> None:
        optimiser.zero_grad()
        for network in networks:
            loss = torch.zeros(())
            for label in range(case.classes):
                synthetic = images[label * case.ipc : (label + 1) * case.ipc]
                loss = loss + class_loss(network, synthetic, real[label], label)
            (loss / len(networks)).backward(inputs=[images])
        optimiser.step()

    return run


def _gradient(
    network: ConvNet, images: torch.Tensor, label: int, *, create_graph: bool
) -> tuple[torch.Tensor, ...]:
    labels = torch.full((len(images),), label)
    loss = nn.functional.cross_entropy(network(images), labels)
    return torch.autograd.grad(
        loss, list(network.parameters()), create_graph=create_graph
    )


def _epoch(
    case: Case, networks: list[ConvNet], settings: dict[str, float]
) -> Callable[[], None]:
    images, labels = _synthetic_set(case)
    optimisers = [torch.optim.SGD(net.parameters(), **settings) for net in networks]

    def run() -> None:
        for network, optimiser in zip(networks, optimisers, strict=True):
            order = torch.randperm(len(labels))
            for batch in order.split(case.batch_train):
                optimiser.zero_grad()
                logits = network(images[batch])
                nn.functional.cross_entropy(logits, labels[batch]).backward()
                optimiser.step()

    return run


def _synthetic_set(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(case.classes * case.ipc, 1, case.side, case.side)
    return images, torch.arange(case.classes).repeat_interleave(case.ipc)

"""Updates of synthetic images in PyTorch, by gradients or embeddings of each class.

They are written twice: as the authors did, by `torch.autograd`, and as pure functions,
because `torch.compile` has no second derivatives by `torch.autograd`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.func import functional_call, grad

from experiments.benchmark.cases import Case
from experiments.benchmark.torch_experiment import (
    ConvNet,
    Experiment,
    Options,
    make_network,
)

Params = dict[str, torch.Tensor]


class Loss(NamedTuple):
    """The loss of one class and one network.

    Attributes:
      eager: of a network, synthetic images, real images and a label.
      pure: of a network that only gives the form, its parameters, and the same.
      lr: the learning rate of the images.
    """

    eager: Callable[..., torch.Tensor]
    pure: Callable[..., torch.Tensor]
    lr: float


def layer_distance(real: torch.Tensor, synthetic: torch.Tensor) -> torch.Tensor:
    """One minus the cosine, summed over output units; 0 for vectors."""
    if real.ndim == 1:
        return real.new_zeros(())
    real, synthetic = real.flatten(1), synthetic.flatten(1)
    norms = real.norm(dim=1) * synthetic.norm(dim=1)
    return (1 - (real * synthetic).sum(1) / (norms + 1e-6)).sum()


def _gradients_eager(
    network: ConvNet, synthetic: torch.Tensor, real: torch.Tensor, label: torch.Tensor
) -> torch.Tensor:
    def gradient(images: torch.Tensor, *, create_graph: bool):
        labels = label.expand(len(images))
        loss = nn.functional.cross_entropy(network(images), labels)
        return torch.autograd.grad(
            loss, list(network.parameters()), create_graph=create_graph
        )

    target = gradient(real, create_graph=False)
    return sum(map(layer_distance, target, gradient(synthetic, create_graph=True)))


def _gradients_pure(
    network: ConvNet,
    params: Params,
    synthetic: torch.Tensor,
    real: torch.Tensor,
    label: torch.Tensor,
) -> torch.Tensor:
    def loss(params: Params, images: torch.Tensor) -> torch.Tensor:
        labels = label.expand(len(images))
        logits = functional_call(network, params, (images,))
        return nn.functional.cross_entropy(logits, labels)

    target, found = grad(loss)(params, real), grad(loss)(params, synthetic)
    return sum(layer_distance(target[name], found[name]) for name in params)


def _embeddings_eager(
    network: ConvNet, synthetic: torch.Tensor, real: torch.Tensor, label: torch.Tensor
) -> torch.Tensor:
    del label
    with torch.no_grad():
        target = network(real, classify=False).mean(0)
    return ((network(synthetic, classify=False).mean(0) - target) ** 2).sum()


def _embeddings_pure(
    network: ConvNet,
    params: Params,
    synthetic: torch.Tensor,
    real: torch.Tensor,
    label: torch.Tensor,
) -> torch.Tensor:
    del label

    def mean_embedding(images: torch.Tensor) -> torch.Tensor:
        embed = {"classify": False}
        return functional_call(network, params, (images,), embed).mean(0)

    return ((mean_embedding(synthetic) - mean_embedding(real)) ** 2).sum()


GRADIENTS = Loss(_gradients_eager, _gradients_pure, lr=0.1)
EMBEDDINGS = Loss(_embeddings_eager, _embeddings_pure, lr=1.0)


def make(experiment: Experiment, loss: Loss) -> Callable[[], None]:
    """One update of the images by a loss, summed over classes, mean over networks."""
    case, images = experiment.case, experiment.images
    images.requires_grad_()
    optimiser = torch.optim.SGD([images], lr=loss.lr, momentum=0.5)
    real = [experiment.random_images(case.batch_real) for _ in range(case.classes)]
    labels = torch.arange(case.classes)
    if experiment.options.compile or experiment.options.vmap:
        return _make_pure(experiment, loss.pure, optimiser, torch.stack(real), labels)

    def run() -> None:
        optimiser.zero_grad()
        for network in experiment.networks:
            total = torch.zeros((), device=images.device)
            for synthetic, of_class, label in zip(
                images.split(case.ipc), real, labels, strict=True
            ):
                total = total + loss.eager(network, synthetic, of_class, label)
            (total / case.networks).backward(inputs=[images])
        optimiser.step()

    return run


def _make_pure(
    experiment: Experiment,
    loss: Callable[..., torch.Tensor],
    optimiser: torch.optim.Optimizer,
    real: torch.Tensor,  # [C, N, D, H, W]
    labels: torch.Tensor,  # [C]
) -> Callable[[], None]:
    """The same by `torch.func`, compiled, for each class or for all at once."""
    options, images = experiment.options, experiment.images
    gradient = _pure_gradient(loss, experiment.case, options)
    networks = [
        {name: param.detach() for name, param in network.named_parameters()}
        for network in experiment.networks
    ]

    def run() -> None:
        synthetic = images.detach().view(len(labels), -1, *images.shape[1:])
        total = torch.zeros_like(synthetic)
        for params in networks:
            if options.vmap:
                total += gradient(params, synthetic, real, labels)
                continue
            for index in range(len(labels)):
                total[index] += gradient(
                    params, synthetic[index], real[index], labels[index]
                )
        images.grad = (total / len(networks)).view_as(images)
        optimiser.step()

    return run


@functools.cache  # It is compiled once for all experiments.
def _pure_gradient(
    loss: Callable[..., torch.Tensor], case: Case, options: Options
) -> Callable[..., torch.Tensor]:
    """Returns the gradient of a loss with respect to the synthetic images.

    It is a function of parameters, synthetic and real images, and a label; with `vmap`
    of the images and labels of all classes.
    """
    form = make_network(case, options)  # Its own parameters are not used.

    def of_class(params, synthetic, real, label) -> torch.Tensor:
        return loss(form, params, synthetic, real, label)

    gradient = grad(of_class, argnums=1)
    if options.vmap:
        gradient = torch.vmap(gradient, (None, 0, 0, 0))
    return options.compiled(gradient)

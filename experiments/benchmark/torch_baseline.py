"""The same workloads in PyTorch.

Without options they are written as in the authors' code: one class and one network
after another, eagerly, with second derivatives by `create_graph`. The options are what
a user would try to make them faster. PyTorch may use TF32 on a GPU, as JAX does.

They do two things less than this project's programs: networks are made and real images
chosen once, not in every step.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from experiments.benchmark import torch_matching
from experiments.benchmark.cases import Case
from experiments.benchmark.torch_experiment import Experiment, Options

Run = Callable[[], None]


def prepare(
    case: Case, **options: Any
) -> Callable[[], tuple[Run, Callable[[], dict[str, Any]]]]:
    """Makes a workload.

    Args:
      case: the workload.
      options: see `Options`.

    Returns:
      A function that compiles it, and returns one that runs it and one that reports.
    """
    is_gpu = case.device == "gpu"
    if is_gpu and not torch.cuda.is_available():
        raise RuntimeError(f"PyTorch {torch.__version__} finds no GPU.")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    how = Options(**options)
    with torch.device("cuda" if is_gpu else "cpu"):
        experiments = [Experiment(case, how) for _ in range(case.experiments)]
        runs = [WORKLOADS[case.workload](one) for one in experiments]

    def run() -> None:
        for run_one in runs:
            run_one()
        if is_gpu:
            torch.cuda.synchronize()

    def compile_it() -> tuple[Run, Callable[[], dict[str, Any]]]:
        began = time.perf_counter()
        # A CUDA graph is recorded in the second run. The last is that of the worker.
        for _ in range(2 if how.compile else 0):
            run()
        seconds = time.perf_counter() - began
        return run, lambda: _facts(is_gpu, how, seconds)

    return compile_it


def _facts(is_gpu: bool, options: Options, seconds: float) -> dict[str, Any]:
    products = "tf32" if is_gpu else "float32"
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "products": "bfloat16" if options.bfloat16 else products,
        "compile_seconds": round(seconds, 3) if options.compile else None,
        "device_peak_bytes": torch.cuda.max_memory_allocated() if is_gpu else None,
    }


def outer_step(experiment: Experiment) -> Run:
    """One update of the images by the gradients of all classes."""
    return torch_matching.make(experiment, torch_matching.GRADIENTS)


def dm_step(experiment: Experiment) -> Run:
    """One update of the images by distribution matching, without augmentation."""
    return torch_matching.make(experiment, torch_matching.EMBEDDINGS)


def iteration(experiment: Experiment) -> Run:
    """Outer steps, between which the networks are trained from their beginning."""
    case = experiment.case
    match, train = outer_step(experiment), inner_epoch(experiment)
    params = [p for network in experiment.networks for p in network.parameters()]
    beginning = [p.detach().clone() for p in params]

    def run() -> None:
        with torch.no_grad():
            for param, value in zip(params, beginning, strict=True):
                param.copy_(value)
        match()
        for _ in range(case.outer_steps - 1):
            for _ in range(case.inner_epochs):
                train()
            match()

    return run


def inner_epoch(experiment: Experiment) -> Run:
    """One epoch of training on the synthetic set, as between two outer steps."""
    return _epoch(experiment, {"lr": 0.01})


def eval_epoch(experiment: Experiment) -> Run:
    """One epoch of the training of evaluation networks."""
    settings = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
    return _epoch(experiment, settings)


def test_10k(experiment: Experiment) -> Run:
    """One pass over the test images."""
    case = experiment.case
    images = experiment.random_images(case.num_test)
    labels = torch.arange(case.num_test) % case.classes
    models = [experiment.options.compiled(network) for network in experiment.networks]

    @torch.no_grad()
    def run() -> None:
        for model in models:
            right = torch.zeros_like(labels[0])
            batches = zip(images.split(256), labels.split(256), strict=True)
            for batch, expected in batches:
                right += (model(batch).argmax(1) == expected).sum()
            right.item()

    return run


def _epoch(experiment: Experiment, settings: dict[str, float]) -> Run:
    options, labels = experiment.options, experiment.labels
    # With `torch.compile`, which is to be fast, the optimiser is one kernel, too.
    settings = settings | {"fused": options.compile is not None}
    pairs = [
        (options.compiled(network), torch.optim.SGD(network.parameters(), **settings))
        for network in experiment.networks
    ]

    def run() -> None:
        images = experiment.images.detach()
        for model, optimiser in pairs:
            order = torch.randperm(len(labels), device=labels.device)
            for batch in order.split(experiment.case.batch_train):
                optimiser.zero_grad()
                logits = model(images[batch])
                nn.functional.cross_entropy(logits, labels[batch]).backward()
                optimiser.step()

    return run


WORKLOADS: dict[str, Callable[[Experiment], Run]] = {
    "outer_step": outer_step,
    "iteration": iteration,
    "dm_step": dm_step,
    "inner_epoch": inner_epoch,
    "eval_epoch": eval_epoch,
    "test_10k": test_10k,
}

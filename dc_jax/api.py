"""Condensing, choosing, evaluating from Python, on arrays.

What the commands do for datasets by name, in a process that is the caller's: a notebook
or a program. The devices are those that its JAX has, the messages are absl's, signals
are handled as before once a call is over, and no file is left behind unless a folder is
given. Not for use inside `jax.jit`: a call compiles programs of its own.
"""

import contextlib
import dataclasses
import os
import signal
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dc_jax.base import SyntheticSet
from dc_jax.config import Config
from dc_jax.data.dataset import Dataset
from dc_jax.devices.backend import fixed_numerics
from dc_jax.devices.layout import make_layout
from dc_jax.errors import UserError
from dc_jax.evaluation.evaluator import accuracies
from dc_jax.files.paths import user_path
from dc_jax.methods import METHODS
from dc_jax.methods.coresets import SELECTIONS
from dc_jax.run import comparison, runner
from dc_jax.run.arrays import make_dataset, make_test_split
from dc_jax.run.evaluation import build_evaluator, count_sets
from dc_jax.run.overrides import (
    make_evaluation_config,
    make_set_config,
    make_values,
)
from dc_jax.run.saving import save_set
from dc_jax.run.setup import make_evaluation
from dc_jax.run.signals import Stopped, as_guest
from dc_jax.sets import set_file


def condense(
    images: ArrayLike,
    labels: ArrayLike,
    *,
    ipc: int | Sequence[int] = 10,
    method: str = "dc",
    network: str = "ConvNet",
    iterations: int | None = None,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    workdir: str | os.PathLike | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> SyntheticSet:
    """Condenses labelled images to a few synthetic ones per class.

    All of them are trained on: keep the images that you will test with out.

    Args:
      images: `[n, H, W]` or `[n, H, W, D]`, uint8, or float in [0, 1].
      labels: `[n]` integers from 0 to C - 1, also as floats; or `[n]` strings, whose
        sorted values are the classes; or one-hot, `[n, C]`.
      ipc: synthetic images per class, or a number for each class.
      method: `dc`, `dsa`, `dm`, `dd`, `frepo`, `ncfm`, `mtt`, or one that was
        added to `methods.METHODS`.
      network: whose gradients or features are matched, by its name in
        `configs/base.py`.
      iterations: of the method; None for its default.
      seed: of all randomness; another one gives another set.
      class_names: the C names; None for "0", "1" and so on, or for the strings.
      workdir: a folder for checkpoints, metrics and in the end the set. The same call
        again continues a run that was stopped. None: nothing is left behind.
      overrides: other fields of `configs/base.py` by their dotted names, as in
        `{"batch_real": 128, "evaluation.epochs": 100}`.

    Returns:
      The set, as NumPy arrays. Its `recipe` has the training that `evaluate` uses.

    Raises:
      UserError: an argument is not as above, or `workdir` holds another run.
      FloatingPointError: the loss or the images stopped being finite.
      RuntimeError: it was called inside a JAX transformation.
    """
    if method not in METHODS:
        other = "; see select" if method in SELECTIONS else ""
        raise UserError(
            f"method must be one of {', '.join(METHODS)}, got {method!r}{other}."
        )
    fields = {"ipc": ipc, "method": method, "network.name": network, "seed": seed}
    config = make_set_config(fields | {"iterations": iterations}, overrides)
    return _make_set(config, make_dataset(images, labels, class_names), workdir)


def select(
    images: ArrayLike,
    labels: ArrayLike,
    *,
    ipc: int | Sequence[int] = 10,
    method: str = "herding",
    network: str = "ConvNet",
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    workdir: str | os.PathLike | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> SyntheticSet:
    """Chooses real images of each class, the baselines of condensation.

    Args:
      images, labels, class_names, overrides: as for `condense`.
      ipc: images per class, or a number for each class.
      method: `random`, `random_soft`, `herding`, `nearest_mean`, `k_center`,
        `forgetting`, `k_means`, `sensitivity` or `gradient_diversity`. All but
        `random` first train a network on all images, for the epochs of
        `overrides={"coreset.epochs": 20}`.
      network: that is trained.
      seed: of all randomness.
      workdir: a folder for the trained network and in the end the set. None: nothing
        is left behind.

    Returns:
      The set, as NumPy arrays; `indices`, `[C, I]`, are its places in `images`.

    Raises:
      UserError: an argument is not as above, or a class has fewer than `ipc` images.
      FloatingPointError: the network stopped being finite.
      RuntimeError: it was called inside a JAX transformation.
    """
    if method not in SELECTIONS:
        other = "; see condense" if method in METHODS else ""
        raise UserError(
            f"method must be one of {', '.join(SELECTIONS)}, got {method!r}{other}."
        )
    fields = {"ipc": ipc, "method": method, "network.name": network, "seed": seed}
    config = make_set_config(fields, overrides)
    return _make_set(config, make_dataset(images, labels, class_names), workdir)


@fixed_numerics()
def evaluate(
    synthetic_set: SyntheticSet,
    test_images: ArrayLike,
    test_labels: ArrayLike,
    *,
    network: str | None = None,
    num_networks: int = 5,
    epochs: int | None = None,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Trains networks from scratch on a set, and tests them on real images.

    The set's recipe says how, or the defaults of `configs/base.py` if it has none, and
    what is given here counts more.

    Args:
      synthetic_set: of `condense`, `select` or `load_synthetic_set`.
      test_images: as the images for `condense`; not normalised.
      test_labels: as the labels for `condense`; strings are among the set's classes,
        integers in their order.
      network: another than the recipe's.
      epochs: others than the recipe's; one more is run, as the authors' code does.
      overrides: as for `condense`. `{"evaluation.protocol": "strong"}` is another
        evaluation, of which the recipe only says the network.

    Returns:
      The test accuracy of each network, a fraction. Shape `[num_networks]`.

    Raises:
      UserError: an argument is not as above, or images and set do not fit.
      RuntimeError: it was called inside a JAX transformation.
    """
    given = {"evaluation.network": network, "evaluation.epochs": epochs}
    given |= {"num_evaluations": num_networks, "seed": seed}
    config = make_evaluation_config(synthetic_set, given, overrides)
    images, labels = make_test_split(
        test_images,
        test_labels,
        synthetic_set.class_names,
        synthetic_set.images.shape[2:],
    )
    num_classes = len(synthetic_set.class_names)
    layout = make_layout(config, num_classes)
    protocol, module, execution = make_evaluation(
        config, config.dataset.name, num_classes, images.shape[1:], layout
    )
    evaluator = build_evaluator(protocol, module, execution, images, labels)
    return accuracies(count_sets(config, evaluator, [synthetic_set]))[0]


def compare(
    images: ArrayLike,
    labels: ArrayLike,
    test_images: ArrayLike,
    test_labels: ArrayLike,
    *,
    methods: Sequence[str] = ("random", "herding", "dc", "dm"),
    ipc: int | Sequence[int] = 10,
    network: str = "ConvNet",
    iterations: int | None = None,
    num_networks: int = 5,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    workdir: str | os.PathLike | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Makes a set by each method, and evaluates all in the same way.

    Args:
      images, labels, class_names, overrides: as for `condense`.
      test_images, test_labels: as for `evaluate`.
      methods: those of `condense` and `select`, and `whole` for all images; `random` is
        always among them.
      ipc: images per class, or a number for each class.
      network: that condenses, and is trained on the sets.
      iterations: of the methods that have any; None for the default of each.
      num_networks: that are trained on each set.
      seed: of all randomness.
      workdir: a folder for the runs and for `comparison.html`. The same call again
        continues where it was stopped. None: nothing is left behind.

    Returns:
      For each method its `method`, `accuracy_mean`, `accuracy_std`, `accuracies`,
      `images`, `bytes` and `seconds`, see `run.comparison.make_row`.

    Raises:
      UserError: an argument is not as above, or `workdir` holds other runs.
      FloatingPointError: a loss, images or a network stopped being finite.
      RuntimeError: it was called inside a JAX transformation.
    """
    if isinstance(methods, str) or not isinstance(methods, Iterable):
        raise UserError(f"methods must be several, as ['dc', 'dm'], got {methods!r}.")
    dataset = make_dataset(images, labels, class_names)
    tests = make_test_split(
        test_images, test_labels, dataset.class_names, dataset.image_shape
    )
    dataset = dataclasses.replace(dataset, test_images=tests[0], test_labels=tests[1])
    fields = {"ipc": ipc, "network.name": network, "seed": seed}
    fields |= {"iterations": iterations, "num_evaluations": num_networks}
    values = make_values(fields, overrides)
    with _interruptible(), _folder(workdir) as folder:
        return comparison.compare(values, list(methods), Path(folder), dataset)


def _folder(
    workdir: str | os.PathLike | None,
) -> contextlib.AbstractContextManager[str]:
    """Enters the folder of a run, which is left behind only if the caller named it."""
    if workdir is None:
        return tempfile.TemporaryDirectory(prefix="dc_jax_")
    return contextlib.nullcontext(str(user_path(workdir, "workdir")))


def _make_set(
    config: Config, dataset: Dataset, workdir: str | os.PathLike | None
) -> SyntheticSet:
    """Makes the set of a run, with a recipe, and saves it where there is a workdir."""
    with _interruptible(), _folder(workdir) as folder:
        synthetic, protocol = runner.make_first_set(config, folder, dataset)
        path = Path(folder) / set_file.SET_NAME
        return save_set(config, path, dataset, synthetic, protocol)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Hands a signal that stopped a run on to the caller's own handler."""
    try:
        with as_guest():
            yield
    except Stopped as error:
        stopped = error
    else:
        return
    signal.raise_signal(stopped.number)
    raise stopped

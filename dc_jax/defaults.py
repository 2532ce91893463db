"""The defaults that depend on the method, the dataset, or the images per class.

`configs/base.py` tells which fields have such a rule.
"""

from typing import Any

import numpy as np

from dc_jax.data.facts import find_facts

# Marks strategies of Siamese augmentation where others are allowed too.
SIAMESE_PREFIX = "dsa:"
# All operations of Siamese augmentation, in the authors' order.
FULL_SIAMESE = "color_crop_cutout_flip_scale_rotate"
# Inner epochs of the authors' code, by images per class, which are the outer steps.
_PUBLISHED_EPOCHS = {1: 1, 10: 50, 20: 25, 30: 20, 40: 15, 50: 10}

# The defaults of gradient matching, and of methods that have no others.
_DEFAULTS = {
    "iterations": 1000,
    "init": "noise",
    "labels": "hard",
    "batch_real": 256,
    "lr_img": 0.1,
    "augmentation": "none",
    "batch_train": 256,
    "lr_net": 0.01,
    "lr_label": 0.1,
}
# Other defaults by method. Those of DSA and DM are the authors' (main.py and main_DM.py
# of their code, and its README). DD has what its authors' code has for ten classes:
# batches of 1,024, and 400 epochs, which are about 20,000 batches of the 50,000 images
# of CIFAR-10. FRePo has batches of 1,024, too. NCFM has its authors' for CIFAR-10, and
# the augmentation of DSA.
_SIAMESE = {"init": "real", "augmentation": FULL_SIAMESE}
_METHOD_DEFAULTS = {
    "dsa": _SIAMESE,
    "dm": _SIAMESE | {"iterations": 20000, "lr_img": 1.0},
    "ncfm": _SIAMESE | {"iterations": 20000, "batch_real": 1024, "lr_img": 1e-3},
    "dd": {"iterations": 20000, "batch_real": 102, "lr_img": 0.01},
    "frepo": {
        "init": "real",
        "labels": "learned",
        "iterations": 500_000,
        "batch_real": 102,
        "batch_train": 1000,
        "lr_img": 3e-4,
        "lr_net": 3e-4,
    },
}


def method_defaults(config: Any) -> dict[str, Any]:
    """Returns the fields whose default depends on the method, with their values.

    The config is a `Config`, as in all functions here.
    """
    defaults = _DEFAULTS | _METHOD_DEFAULTS.get(config.method, {})
    if config.method == "dm" and config.mean_ipc >= 100:
        defaults["lr_img"] = 10.0
    if config.method == "mtt":
        defaults |= _mtt_defaults(config)
    if not find_facts(config.dataset.name).is_flippable:
        defaults["augmentation"] = without_flip(defaults["augmentation"])
    return defaults


def _mtt_defaults(config: Any) -> dict[str, Any]:
    """Returns MTT's values for CIFAR-10, and DATM's where labels are learned."""
    return _SIAMESE | {
        "iterations": 10_000 if config.labels == "learned" else 5000,
        "lr_img": 1000.0 if config.mean_ipc >= 50 else 100.0,
        "lr_label": 5.0 if config.mean_ipc == 1 else 2.0,
        "batch_train": 500,
    }


def coreset_defaults(config: Any) -> dict[str, Any]:
    """Returns the epochs of networks that coresets need.

    Those that label images were stopped after 20, 44 and 128 epochs for 1, 10 and 50
    images per class of CIFAR-10; between these the number is interpolated.
    """
    if config.method != "random_soft" and config.labels != "soft":
        return {"epochs": 20}
    return {"epochs": _interpolate(config.mean_ipc, (20, 44, 128))}


def _interpolate(ipc: int, values: tuple[int, int, int]) -> int:
    """Returns a number from those at 1, 10 and 50 images per class."""
    return round(float(np.interp(np.log(ipc), np.log([1, 10, 50]), values)))


def pool_defaults(config: Any) -> dict[str, Any]:
    """Returns how many networks a pool has, None for no pool, and their most updates.

    FRePo's are the authors'.
    """
    if config.method == "frepo":
        return {"size": 10, "updates": 100}
    return {"size": None, "updates": 500}


def trajectory_defaults(config: Any) -> dict[str, Any]:
    """Returns MTT's values for CIFAR-10; with learned labels also DATM's."""
    is_learned, is_one = config.labels == "learned", config.mean_ipc == 1
    return {
        "steps": 80 if is_learned else 50 if is_one else 30,
        "max_start": _interpolate(config.mean_ipc, (2, 20, 40)),
        "growth": 1000 if is_learned else 0,
        "threshold": 1.0 if is_learned else None,
        "lr_lr": 1e-7 if is_one else 1e-5,
    }


def expert_defaults(config: Any) -> dict[str, Any]:
    """Returns the epochs of experts: NCFM's, as many as MTT looks at, or a few."""
    others = {"mtt": config.trajectories.last_epoch, "ncfm": 60}
    return {"epochs": others.get(config.method, 2)}


# The groups of fields in which some have a rule; the last one needs the one before.
GROUP_DEFAULTS = {
    "pool": pool_defaults,
    "coreset": coreset_defaults,
    "trajectories": trajectory_defaults,
    "experts": expert_defaults,
}


def without_flip(strategy: str) -> str:
    """Returns `FULL_SIAMESE` as it is for images of which a mirror image is another."""
    return strategy.replace("flip_", "")


def default_loops(ipc: int) -> tuple[int, int]:
    """Returns the outer steps T and the inner epochs for `ipc` images per class.

    Numbers up to 50 that are not in the authors' table have T = ipc and 500 / ipc
    epochs. Above 50 the authors advise 50 and 10.
    """
    outer = min(ipc, 50)
    return outer, _PUBLISHED_EPOCHS.get(outer, round(500 / outer))

"""The paper's ablations at 1 image per class; `paper`, `cpu`, `cpu_FACTOR` or `smoke`.

  python -m experiments.ablations --config=configs/experiments/ablations.py:cpu \
      --output=runs/ablations

Every network of a table condenses, and every set is tested with all of them. The
distances are only tested with the network that condensed. `cpu` has norm, pooling,
activation, distance and the initial images; `cpu_depth`, `cpu_width`, `cpu_ipc` and
`cpu_loops` each have one of the other ablations.
"""

from typing import Any

from ml_collections import ConfigDict

from dc_jax.configs.experiments.common import (
    CPU,
    NETWORKS,
    SMOKE,
    check_size,
    condensing,
    run_fields,
    square,
)

_FACTORS = {
    "norm": {
        "None": "ConvNetNN",
        "Batch": "ConvNetBN",
        "Layer": "ConvNetLN",
        "Instance": "ConvNet",
        "Group": "ConvNetGN",
    },
    "pooling": {"None": "ConvNetNP", "Max": "ConvNetMP", "Average": "ConvNet"},
    "activation": {
        "Sigmoid": "ConvNetAS",
        "ReLU": "ConvNet",
        "LeakyReLU": "ConvNetAL",
    },
    "depth": {str(depth): f"ConvNetD{depth}" for depth in (1, 2, 3, 4)},
    "width": {str(width): f"ConvNetW{width}" for width in (32, 64, 128, 256)},
}
# Outer steps and inner epochs at 10 images per class: the authors', and others that
# change only one of the two.
_LOOPS = ((1, 50), (5, 50), (10, 50), (20, 50), (10, 1), (10, 10), (10, 100))
_CPU_SIZES = ("cpu", "cpu_depth", "cpu_width", "cpu_ipc", "cpu_loops")
_SIZES = ("paper", *_CPU_SIZES, "smoke")


def get_config(size: str = "paper") -> ConfigDict:
    """Returns the experiment as in the paper, or another of the sizes."""
    check_size(size, _SIZES)
    config = ConfigDict()
    # File of configs/, and fields of all runs.
    config.dataset = "mnist"
    config.run = run_fields({})
    factors, networks, ipcs, loops = _FACTORS, NETWORKS, (10, 20, 30, 40, 50), _LOOPS
    if size in _CPU_SIZES:
        chosen = ("norm", "pooling", "activation") if size == "cpu" else (size[4:],)
        factors = {name: _FACTORS[name] for name in chosen if name in _FACTORS}
        networks = ("ConvNet",) if size == "cpu" else ()
        ipcs = (5, 10) if size == "cpu_ipc" else ()
        loops = _LOOPS if size == "cpu_loops" else ()
        config.dataset = "fashion_mnist"
        config.run = run_fields(CPU | {"num_evaluations": 4, "iterations": 100})
    elif size == "smoke":
        factors = {}
        networks, ipcs, loops = ("MLP",), (2,), ()
        config.dataset = "digits"
        config.run = run_fields(SMOKE)
    config.sets, config.tables = {}, {}
    for factor, names in factors.items():
        _add(config, factor, square(names), {n: condensing(n) for n in names.values()})
    _add_distances(config, networks)
    network = "MLP" if size == "smoke" else "ConvNet"
    _add_settings(config, network, ipcs, loops)
    if networks:
        _add_init(config, network)
    return config


def _add(config: ConfigDict, title: str, entries: Any, sets: dict[str, Any]) -> None:
    if len(entries) > 1:  # One entry compares nothing.
        config.sets.update(sets)
        config.tables[title] = entries


def _add_distances(config: ConfigDict, networks: tuple[str, ...]) -> None:
    cells = [(d, name) for d in ("mse", "cos") for name in networks]
    # "ours" is the default distance.
    _add(
        config,
        "distance",
        tuple((d, name, f"{name}-{d}", name) for d, name in cells)
        + tuple(("ours", name, name, name) for name in networks),
        {f"{name}-{d}": condensing(name) | {"distance": d} for d, name in cells}
        | {name: condensing(name) for name in networks},
    )


def _add_settings(config: ConfigDict, network: str, ipcs: Any, loops: Any) -> None:
    """Adds the tables of images per class and of outer and inner loops."""
    fields = condensing(network)
    _add(
        config,
        "ipc",
        ((network, "1", network, network),)
        + tuple((network, str(i), f"ipc-{i}", network) for i in ipcs),
        {network: fields} | {f"ipc-{i}": fields | {"ipc": i} for i in ipcs},
    )
    _add(
        config,
        "loops",
        tuple((f"T = {t}", f"{e} epochs", f"loops-{t}-{e}", network) for t, e in loops),
        {
            f"loops-{t}-{e}": fields | {"ipc": 10, "outer_loop": t, "inner_loop": e}
            for t, e in loops
        },
    )


def _add_init(config: ConfigDict, network: str) -> None:
    """Adds the table of initial images."""
    fields = condensing(network)
    _add(
        config,
        "init",
        (("noise", network, network, network), ("real", network, "real", network)),
        {network: fields, "real": fields | {"init": "real"}},
    )

"""Trains plain PyTorch networks on a set by its recipe: do they agree with the recipe?

  python -m experiments.torch_check --config=configs/fashion_mnist.py \\
      --set=docs/sets/fashion_mnist_1_dc.npz,runs/fashion_mnist --networks=5

For each set it prints the accuracy of the PyTorch networks, and that of the recipe,
which this project's networks had. Nothing is written. The recipe must be plain: a
ConvNet with instance norm, SGD, hard labels, no CutMix. Its augmentation, if it has
one, is also that of PyTorch, see `augment`. Needs PyTorch: `pip install -e ".[torch]"`.
"""

from absl import app, flags
from ml_collections import config_flags

from dc_jax.errors import ERRORS, load_package, one_line
from dc_jax.run.command_line import log_to_terminal, parse_flags, refuse

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Required. Its dataset is the one of the sets.", lock_config=True
)
_SET = flags.DEFINE_list("set", [], "Required. Sets, each a file or a run's folder.")
_NETWORKS = flags.DEFINE_integer("networks", 5, "PyTorch networks per set.", 2)


def main(argv: list[str]) -> None:
    """Checks the sets of the command line."""
    if len(argv) > 1:
        refuse(f"unexpected argument {argv[1]!r}: flags begin with '--'.")
    if _CONFIG.value is None or not _SET.value:
        refuse("--config=FILE and --set=PATH are needed.")
    log_to_terminal()
    try:
        load_package("torch", "torch")
        from dc_jax.config import Config
        from dc_jax.run.checks import check_fit
        from dc_jax.run.setup import load
        from dc_jax.sets.formats import load_synthetic_set
        from experiments.torch_check.networks import check, load_plain

        for path in _SET.value:
            load_plain(path)
        dataset = load(Config.create(_CONFIG.value.to_dict()))
        for path in _SET.value:
            check_fit(load_synthetic_set(path), dataset, path)
        tests = dataset.test_images, dataset.test_labels
        for path in _SET.value:
            print(check(path, *tests, _NETWORKS.value), flush=True)
    except ERRORS as error:
        refuse(one_line(error))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)

"""Condenses an image dataset to a few images per class, or evaluates such a set.

Condense. The 8x8 digits come with scikit-learn and take a minute:
  python -m dc_jax.main --config=configs/digits.py --workdir=runs/digits

The same command again continues a run that was stopped. In the workdir:
  synthetic_set.npz, images.png  the condensed images, as arrays and as a picture
  result.json, report.html       their accuracy; a page that shows the run
  card.json, metrics.jsonl       how they were made; the loss of every iteration

A config is a file of configs/ (installed as dc_jax/configs) or your own. base.py
explains all fields. The others are digits.py, mnist_5k.py, mnist.py, fashion_mnist.py,
svhn.py, cifar10.py and cifar100.py. Change a field with --config.FIELD=VALUE, often:
  --config.ipc=10                images per class
  --config.method=dsa            dc, dsa, dm, dd; random, herding and other coresets
  --config.iterations=100        a larger number continues a finished run
  --config.network.name=MLP      or ConvNet, LeNet, AlexNet, VGG11, ResNet18
  --config.seed=1                another seed gives another set
  --config.dataset.name=folder --config.dataset.path=photos
                                 your own pictures, one sub-folder per class

Evaluate: train networks on a saved set, and test them on the config's dataset.
  python -m dc_jax.main --config=configs/digits.py --mode=evaluate --set=runs/digits \\
      --config.evaluation.network=MLP
"""

import contextlib

from absl import app, flags, logging
from ml_collections import config_flags

from dc_jax.progress import Progress
from dc_jax.run.command_line import begin, end_on_signals, parse_flags, refuse

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Required. The file that describes the run.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The folder of the run. Required, except with --mode=evaluate."
)
_MODE = flags.DEFINE_enum(
    "mode", "condense", ["condense", "evaluate"], "Condense, or evaluate a saved set."
)
_SET = flags.DEFINE_list(
    "set",
    [],
    "With --mode=evaluate: a synthetic_set.npz or .safetensors, or the folder of a run "
    "for all its sets. Commas separate several.",
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        refuse(f"unexpected argument {argv[1]!r}: flags begin with '--'.")
    if _MODE.value == "condense" and not _WORKDIR.value:
        refuse("--workdir=FOLDER is needed: the results are saved there.")
    if (_MODE.value == "evaluate") != bool(_SET.value):
        refuse("--mode=evaluate and --set=PATH go together.")
    begin()

    # Of several processes the first alone tells; which that is, is not known yet.
    is_alone = not _CONFIG.value.get("distributed")
    # Not before: `--help` and a mistyped flag need not wait for JAX.
    with Progress("Starting") if is_alone else contextlib.nullcontext():
        from dc_jax.config import Config
        from dc_jax.devices import layout, processes
        from dc_jax.run import runner
        from dc_jax.run.ending import ends_in_a_line

    layout.use_cpu_cores()
    with ends_in_a_line():
        config = Config.create(_CONFIG.value.to_dict())
        processes.initialize(config)
        if not processes.is_first():
            logging.set_verbosity(logging.ERROR)
        if _MODE.value == "condense":
            runner.condense(config, _WORKDIR.value)
        else:
            runner.evaluate(config, *_SET.value, folder=_WORKDIR.value)
    if processes.are_several():
        processes.leave(0)


if __name__ == "__main__":
    end_on_signals("Nothing was begun.")
    flags.register_validator(
        "config",
        lambda config: config is not None,
        "the run's file is needed, as in --config=configs/digits.py; see --help.",
    )
    app.run(main, flags_parser=parse_flags)

"""Writes a condensed set in another format.

  python -m dc_jax.export --set=runs/digits --format=png --output=pictures
  python -m dc_jax.export --set=runs/digits --format=safetensors \\
      --output=digits.safetensors
  python -m dc_jax.export --set=res_DC_MNIST_ConvNet_10ipc.pt --dataset=mnist \\
      --format=npz --output=mnist.npz

npz and safetensors hold the set exactly. parquet (for Hugging Face datasets),
huggingface (a folder with that table and a dataset card, for the Hub), png (one folder
per class) and tfds (for TensorFlow Datasets) hold pictures of 8 bits per channel.
"""

from absl import app, flags, logging

from dc_jax.errors import ERRORS, one_line, printable
from dc_jax.progress import Progress
from dc_jax.run.command_line import end_on_signals, parse_flags, refuse

_FORMATS = ["npz", "safetensors", "parquet", "huggingface", "png", "tfds"]

_SET = flags.DEFINE_string(
    "set",
    None,
    "The folder of a run, or a file: our .npz or .safetensors, or the authors' .pt.",
    required=True,
)
_FORMAT = flags.DEFINE_enum("format", None, _FORMATS, "What to write.", required=True)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "The new file, or for huggingface, png and tfds the new folder. Nothing is ever "
    "overwritten.",
    required=True,
)
_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "Only for a .pt: mnist, fashion_mnist, svhn, cifar10 or cifar100. Its published "
    "mean and standard deviation are used.",
)
_EXPERIMENT = flags.DEFINE_integer(
    "experiment",
    0,
    "Which set of a run or a .pt with several sets, from 0.",
    lower_bound=0,
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        refuse(f"unexpected argument {argv[1]!r}: flags begin with '--'.")
    # TFDS tells of each of its files, where they are before they are moved.
    logging.set_verbosity(logging.ERROR)

    nothing = f"Nothing is written to {printable(_OUTPUT.value)}."
    end_on_signals(nothing)
    # Not before: `--help` and a mistyped flag need not wait for JAX.
    with Progress("Starting"):
        from dc_jax.config import describe_ipc
        from dc_jax.sets import formats

    end_on_signals(nothing, cleans=True)
    try:
        with Progress(f"Writing {_OUTPUT.value}"):
            synthetic_set = formats.load_synthetic_set(
                _SET.value, dataset=_DATASET.value, experiment=_EXPERIMENT.value
            )
            formats.export(synthetic_set, _OUTPUT.value, _FORMAT.value)
    except ERRORS as error:
        raise SystemExit(f"error: {one_line(error)}") from None
    num_classes, _, *shape = synthetic_set.images.shape
    ipc = describe_ipc((synthetic_set.labels >= 0).sum(axis=1))
    parts = synthetic_set.factor**2
    print(
        f"{printable(_OUTPUT.value)}: {num_classes} classes of {ipc} "
        f"image{'' if ipc == '1' else 's'} of {'x'.join(map(str, shape))}"
        f"{f', each of {parts} parts' if parts > 1 else ''}."
    )


if __name__ == "__main__":
    end_on_signals("Nothing was begun.")
    app.run(main, flags_parser=parse_flags)

"""Scores condensed sets, of any program, under the same evaluations.

  python -m experiments.scores --config=configs/fashion_mnist.py --output=runs/scores \\
      --set=docs/sets/fashion_mnist_1_dc.npz,res_DM_FashionMNIST_ConvNet_10ipc.pt \\
      --baselines=random,herding --whole=0.935 --config.num_evaluations=5

Writes scores.md, scores.html and scores.json, after each accuracy, and at the end
scores.png, a figure of the accuracies under strong, if there are any. The same command
continues where it was stopped, and measures nothing twice. `--measures=strong` measures
that column alone; another call with the same folder adds others.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from dc_jax.errors import ERRORS, UserError, one_line
from dc_jax.files.content import read_json, write_atomically, write_json
from dc_jax.files.paths import check_folder, user_path
from dc_jax.run.command_line import log_to_terminal, parse_flags, refuse
from experiments.scores import KINDS

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Required. Its dataset, network and num_evaluations.",
    lock_config=True,
)
_SET = flags.DEFINE_list(
    "set", [], "Required. Sets, each a file or the folder of a run, joined by commas."
)
_OUTPUT = flags.DEFINE_string("output", None, "Required. The folder of the results.")
_BASELINES = flags.DEFINE_list(
    "baselines",
    ["random"],
    "Methods that choose as many real images, as further rows; always random.",
)
_NETWORKS = flags.DEFINE_list(
    "networks",
    ["MLP", "LeNet", "AlexNet"],
    "Other networks that are trained on the sets, for their mean accuracy.",
)
_MEASURES = flags.DEFINE_list(
    "measures",
    list(KINDS),
    "Accuracies to measure now: under the evaluations paper and strong, and under "
    "strong without augmentation (for ARS), with hard labels (for HLR), of 8-bit "
    "pixels, and of --networks. Those that were measured before stay in the table.",
)
_WHOLE = flags.DEFINE_string(
    "whole",
    None,
    "Accuracy of networks that are trained on all images, a fraction, or the folder of "
    "a run of the method whole. Without it there are no HLR and no LRS.",
)
_NAME = "scores.json"


def read_whole(text: str | None) -> float | None:
    """Returns the accuracy that `--whole` names.

    Raises:
      UserError: it is no fraction, nor the folder of a finished run.
    """
    if text is None:
        return None
    try:
        accuracy = float(text)
    except ValueError:
        result = read_json(user_path(text, "--whole") / "result.json") or {}
        accuracy = result.get("accuracy_mean", 0.0)
    if not 0 < accuracy <= 1:
        raise UserError(
            "--whole must be a fraction such as 0.935, or the folder of a finished "
            f"run, got {text!r}."
        )
    return accuracy


def run(
    values: Mapping[str, Any],
    folder: Path,
    sets: Sequence[str],
    *,
    baselines: Sequence[str] = (),
    networks: Sequence[str] = (),
    kinds: Sequence[str] = KINDS,
    whole: float | None = None,
) -> str:
    """Measures what is not measured yet; returns the table.

    Args:
      values: of the config.
      folder: of the results; what was measured before is in it.
      sets: paths of sets.
      baselines: methods that choose as many images; `random` is added.
      networks: that are trained on the sets for their mean accuracy.
      kinds: of measures, see `--measures`.
      whole: accuracy of networks that are trained on all images.

    Raises:
      UserError: an argument or a set is unusable, or the folder is of others or a
        file.
      FileNotFoundError: there is no such set.
      Stopped: by a signal; what was measured is saved.
    """
    # Not imported above, so that `--help` does not wait for JAX.
    from dc_jax.config import Config
    from dc_jax.networks import has_batch_norm
    from dc_jax.run.checks import naming
    from dc_jax.run.setup import load
    from experiments.scores import figure, measures, rows

    check_folder(folder, "--output")
    for name in networks:
        with naming("--networks"):
            has_batch_norm(name)
    wanted = measures.choose(kinds, networks)
    config = Config.create(values)
    rows.check_baselines(baselines)
    before, dataset = _read_rows(folder), load(config)
    meter = measures.Meter(values, dataset, measures.with_found(wanted, before))
    given = rows.load_rows(sets, dataset)
    arguments = (values, baselines, given, dataset, folder / "baselines")
    scored = [*given, *rows.make_baselines(*arguments)]
    results = [_begin(row, meter, before) for row in scored]
    names = {row.name for row in scored}
    content = {"dataset": dataset.name, "networks": meter.networks(), "whole": whole}
    # Kept for a later call that names them again.
    content["unlisted"] = [one for one in before if one["name"] not in names]
    write = functools.partial(_write, folder, content | {"rows": results})
    text = write()
    for name, measure in wanted.items():
        for row, result in zip(scored, results, strict=True):
            is_needed = row.has_soft_labels or not measure.only_soft
            if is_needed and name not in result["cells"]:
                logging.info("%s: %s.", row.name, name)
                result["cells"][name] = meter.measure(name, row)
                text = write()
    if (picture := figure.to_png(results)) is not None:
        write_atomically(folder / "scores.png", picture)
    return text


def _read_rows(folder: Path) -> list[dict[str, Any]]:
    """Returns what was measured before, none where the folder is new."""
    content = read_json(folder / _NAME) or {"rows": []}
    rows = content.get("rows")
    if not isinstance(rows, list):
        raise UserError(f"{folder / _NAME} is of another program: choose another.")
    return rows + content.get("unlisted", [])


def _begin(row: Any, meter: Any, before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the facts of a row, with the accuracies that were measured before."""
    cells = {one["name"]: one["cells"] for one in before}.get(row.name, {})
    return {
        **row.facts(),
        "cells": {
            name: cell
            for name, cell in cells.items()
            if name in meter.measures
            and cell["made_with"] == meter.made_with(name, row)
        },
    }


def _write(folder: Path, content: dict[str, Any]) -> str:
    """Writes all files; returns the table."""
    from experiments.scores import tables

    rows = content["rows"]
    for row in rows:
        row["scores"] = tables.score(row, rows, content)
    text = tables.to_markdown(content)
    write_json(folder / _NAME, content)
    write_atomically(folder / "scores.md", text.encode())
    write_atomically(folder / "scores.html", tables.to_page(content))
    return text


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        refuse(f"unexpected argument {argv[1]!r}: flags begin with '--'.")
    if _CONFIG.value is None or not _SET.value or not _OUTPUT.value:
        refuse("--config=FILE, --set=PATH and --output=FOLDER are needed.")
    log_to_terminal()

    from dc_jax.devices import layout
    from dc_jax.devices.backend import fixed_numerics
    from dc_jax.run.signals import Stopped

    layout.use_cpu_cores()
    try:
        with fixed_numerics():
            folder = user_path(_OUTPUT.value, "--output")
            options = {"baselines": _BASELINES.value, "networks": _NETWORKS.value}
            options |= {"kinds": _MEASURES.value, "whole": read_whole(_WHOLE.value)}
            print(run(_CONFIG.value.to_dict(), folder, _SET.value, **options))
    except ERRORS as error:
        sys.exit(f"error: {one_line(error)}")
    except Stopped as stopped:
        logging.info("%s", stopped)
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        logging.info("Stopped by SIGINT. The same command continues.")
        sys.exit(130)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)

"""Writes the metrics and snapshots of a run for TensorBoard, to `tensorboard/`."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dc_jax.errors import load_package
from dc_jax.report import kept

# Seconds after which TensorBoard can read an event, at most.
_FLUSH = 10
# Of the names of our files.
_SUFFIX = ".dc_jax"


class Events:
    """Writes one file with the scalars and pictures of each iteration.

    When a run continues, the file is written anew from the metrics and snapshots that
    the run keeps. So an iteration that is done again is there once, with its own time.
    """

    def __init__(
        self, folder: Path, lines: Iterable[Mapping[str, Any]], seconds: float
    ):
        """Writes the `lines` of `metrics.jsonl` and the snapshots that there are.

        `seconds` is the time that the run took up to here.
        """
        # When the disk is full, `SummaryWriter` of this package waits forever for a
        # thread that has ended. `EventsWriter` raises.
        writers = load_package("tensorboardX.event_file_writer", "tensorboard")
        logs = folder / "tensorboard"
        logs.mkdir(exist_ok=True)
        # Those of others, who may have put theirs here too, stay.
        for path in logs.glob(f"events.out.tfevents.*{_SUFFIX}"):
            path.unlink()
        self._began = time.time() - seconds
        self._flushed = time.monotonic()
        self._writer = writers.EventsWriter(str(logs / "events"), _SUFFIX)
        for line in lines:
            self.scalars(line)
        for iteration, png in kept.read_snapshots(folder).items():
            self.picture(iteration, png)
        self._writer.flush()

    def scalars(self, line: Mapping[str, Any]) -> None:
        """Writes the scalars of a line of `metrics.jsonl`."""
        names = ("loss", "accuracy_mean", "accuracy_std")
        values = {name: line[name] for name in names if name in line}
        for name, value in line.get("layers", {}).items():
            values[f"layers/{name}"] = value
        scalars = [{"tag": tag, "simple_value": values[tag]} for tag in values]
        self._write(line["iteration"], self._began + line["seconds"], scalars)

    def picture(self, iteration: int, png: bytes) -> None:
        """Writes the snapshot of an iteration."""
        width, height = kept.size_of(png)
        picture = {"height": height, "width": width, "encoded_image_string": png}
        self._write(iteration, time.time(), [{"tag": "images", "image": picture}])

    def close(self) -> None:
        """Writes the remaining events and closes the file."""
        self._writer.close()

    def _write(self, step: int, wall_time: float, values: list[dict[str, Any]]) -> None:
        from tensorboardX.proto.event_pb2 import Event

        event = Event(wall_time=wall_time, step=step, summary={"value": values})
        self._writer.write_event(event)
        if time.monotonic() - self._flushed >= _FLUSH:
            self._writer.flush()
            self._flushed = time.monotonic()

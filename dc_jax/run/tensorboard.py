"""Writes the metrics and snapshots of a run for TensorBoard, to `tensorboard/`."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dc_jax.errors import load_package
from dc_jax.report import kept

# Seconds after which TensorBoard can read an event, at most.
_FLUSH = 10


def check_package() -> None:
    """Checks that tensorboardX is installed.

    Raises:
      UserError: it is not installed.
    """
    load_package("tensorboardX", "tensorboard")


class Events:
    """Writes one file with the scalars and pictures of each iteration.

    When a run continues, the file is written anew from the metrics and snapshots that
    the run keeps. So an iteration that is done again is there once, with its own time.
    """

    def __init__(
        self, folder: Path, lines: Iterable[Mapping[str, Any]], seconds: float
    ):
        """Writes the iterations that the run has done already.

        Args:
          folder: of the run.
          lines: of its `metrics.jsonl`.
          seconds: the time that the run took up to here.
        """
        # When the disk is full, `SummaryWriter` of this package waits forever for a
        # thread that has ended. `EventsWriter` raises.
        writers = load_package("tensorboardX.event_file_writer", "tensorboard")
        logs = folder / "tensorboard"
        logs.mkdir(parents=True, exist_ok=True)
        for path in logs.glob("events.out.tfevents.*"):
            path.unlink()
        self._began = time.time() - seconds
        self._flushed = time.monotonic()
        self._writer = writers.EventsWriter(str(logs / "events"))
        for line in lines:
            self._write_scalars(line)
        for iteration, png in kept.read_snapshots(folder).items():
            self._write_picture(iteration, png)
        self._writer.flush()

    def scalars(self, line: Mapping[str, Any]) -> None:
        """Writes the scalars of a line of `metrics.jsonl`."""
        self._write_scalars(line)
        self._flush_in_time()

    def picture(self, iteration: int, png: bytes) -> None:
        """Writes the snapshot of an iteration."""
        self._write_picture(iteration, png)
        self._flush_in_time()

    def close(self) -> None:
        """Writes the remaining events and closes the file."""
        self._writer.close()

    def _write_scalars(self, line: Mapping[str, Any]) -> None:
        names = ("loss", "accuracy_mean", "accuracy_std")
        values = {name: line[name] for name in names if name in line}
        for name, value in line.get("layers", {}).items():
            values[f"layers/{name}"] = value
        self._write(
            [{"tag": tag, "simple_value": value} for tag, value in values.items()],
            step=line["iteration"],
            seconds=line["seconds"],
        )

    def _write_picture(self, iteration: int, png: bytes) -> None:
        width, height = kept.size_of(png)
        picture = {"height": height, "width": width, "encoded_image_string": png}
        self._write([{"tag": "images", "image": picture}], step=iteration)

    def _write(
        self, values: list[dict[str, Any]], *, step: int, seconds: float | None = None
    ) -> None:
        """Writes an event at `seconds` from the start of the run; None means now."""
        from tensorboardX.proto.event_pb2 import Event

        now = time.time() if seconds is None else self._began + seconds
        event = Event(wall_time=now, step=step, summary={"value": values})
        self._writer.write_event(event)

    def _flush_in_time(self) -> None:
        if time.monotonic() - self._flushed >= _FLUSH:
            self._writer.flush()
            self._flushed = time.monotonic()

"""What the tests of the sources of data share: tiny IDX files, a fresh interpreter."""

import gzip
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np

NUM_TRAIN, NUM_TEST = 20, 7


def run_python(code: str) -> str:
    """Runs code in a fresh interpreter; returns what it printed as errors and log."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def random_pixels(seed: int, *shape: int) -> np.ndarray:
    """Random uint8."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def cycling_labels(num: int, num_classes: int = 10) -> np.ndarray:
    """0, 1, 2, ... and round again, uint8."""
    return np.arange(num, dtype=np.uint8) % num_classes


def idx_bytes(array: np.ndarray) -> bytes:
    """The content of one file."""
    header = struct.pack(
        f">4B{array.ndim}I", 0, 0, 8, array.ndim, *(int(size) for size in array.shape)
    )
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, height: int = 5, gzipped: bool = False) -> None:
    """The four files; the seed of the pixels of a split is its number of images."""
    suffix = ".gz" if gzipped else ""
    for stem, num in (("train", NUM_TRAIN), ("t10k", NUM_TEST)):
        for kind, array in (
            ("images-idx3", random_pixels(num, num, height, height)),
            ("labels-idx1", cycling_labels(num)),
        ):
            data = idx_bytes(array)
            path = folder / f"{stem}-{kind}-ubyte{suffix}"
            path.write_bytes(gzip.compress(data) if gzipped else data)

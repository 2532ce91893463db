"""Finds the pictures of a folder that has a sub-folder for each class."""

import collections
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from dc_jax.data.decode import Encoded, decode
from dc_jax.data.splits import name_splits
from dc_jax.errors import UserError

SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm"),
}
# What systems leave in folders, which are no pictures.
_LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
# How many skipped files a line of the log names.
_NAMED = 20


def read_folder(
    folder: Path, image_size: int | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Reads all pictures of a folder into memory.

    The classes are the names of the sub-folders, in alphabetical order. In each, all
    files with the suffix of a picture are read, also in deeper folders, except hidden
    ones; the log names what is skipped. `decode` says what becomes of them.

    The folder has the sub-folders, or two that `name_splits` takes for the splits, such
    as `train` and `val`, each with the sub-folders.

    Returns:
      `train_images`, `[n, H, W, D]` uint8, and `train_labels`, `[n]` int32, `test_...`
      too where there is a test split; and the names of the classes.

    Raises:
      UserError: there are no classes, one has no picture, or a file or folder cannot be
        read.
    """
    parts = _find_parts(folder)
    names = [path.name for path in _sub_folders(parts["train"])]
    if not names:
        raise UserError(f"{parts['train']} has no sub-folders, one for each class.")
    _check_classes(parts["train"], names)
    skipped: list[str] = []
    pictures = {
        split: list(_find_pictures(part, names, skipped))
        for split, part in parts.items()
    }
    if skipped:
        told = skipped[:_NAMED]
        if len(skipped) > _NAMED:
            told.append(f"and {len(skipped) - _NAMED} more")
        text = "%s: %d file(s) or folder(s) are skipped: %s."
        logging.info(text, folder, len(skipped), ", ".join(told))
    return decode(pictures, str(folder), image_size), tuple(names)


def has_classes(folder: Path) -> bool:
    """Whether a folder looks like one of `read_folder`, by a few of its files."""
    if not folder.is_dir():
        return False
    for part in [folder, *_sub_folders(folder)[:3]]:
        if any(_has_picture(path) for path in _sub_folders(part)[:3]):
            return True
    return False


def _find_parts(folder: Path) -> dict[str, Path]:
    """Returns the folders of the splits; without any, the folder itself is "train"."""
    folders = {path.name: path for path in _sub_folders(folder)}
    splits = name_splits(folders, str(folder))
    if "train" in splits and (len(splits) == 2 or len(folders) == 1):
        unused = ", ".join(sorted(folders.keys() - splits.values()))
        text = "%s: trained on %s, tested on %s%s."
        tests = splits.get("test", "a fifth of it")
        unused = f"; not used: {unused}" if unused else ""
        logging.info(text, folder, splits["train"], tests, unused)
        return {split: folders[name] for split, name in splits.items()}
    return {"train": folder}


def _check_classes(folder: Path, names: Sequence[str]) -> None:
    """Checks that the sub-folders look like classes, not like a level above them."""
    layouts = collections.defaultdict(list)
    for name in names:
        inner = tuple(path.name for path in _sub_folders(folder / name))
        if len(inner) > 1 and not _has_picture(folder / name):
            layouts[inner].append(name)
    for inner, alike in layouts.items():
        if len(alike) > 1:
            raise UserError(
                f"{folder}: {_some(alike)} hold no pictures but the same sub-folders, "
                f"{_some(inner)}, so they are no classes: name two of them train and "
                "test (or val), or give one as config.dataset.path."
            )
        if len(names) == 1:
            raise UserError(
                f"{folder} has one sub-folder, {names[0]}, which holds {_some(inner)}: "
                f"did you mean config.dataset.path={folder / names[0]}?"
            )


def _some(names: Sequence[str]) -> str:
    more = [f"{len(names) - 5} more"] if len(names) > 5 else []
    *others, last = [*names[:5], *more]
    return f"{', '.join(others)} and {last}" if others else last


def _list(folder: Path) -> list[os.DirEntry]:
    """Returns what is in a folder, in alphabetical order, without litter."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{folder} cannot be read: {reason}.") from error
    return [e for e in found if e.name not in _LITTER and not e.name.startswith("._")]


def _sub_folders(folder: Path) -> list[Path]:
    """Returns the sub-folders that are not hidden, in alphabetical order."""
    entries = (entry for entry in _list(folder) if not entry.name.startswith("."))
    # Unlike that of an entry, this `is_dir` takes links to themselves.
    return [path for entry in entries if (path := Path(entry.path)).is_dir()]


def _has_picture(folder: Path) -> bool:
    """Whether there is a picture in a folder, not deeper."""
    names = (entry.name for entry in _list(folder))
    return any(os.path.splitext(name)[1].lower() in SUFFIXES for name in names)


def _find_pictures(
    folder: Path, names: Sequence[str], skipped: list[str]
) -> Iterator[Encoded]:
    """Yields the pictures of all classes; each must have a sub-folder.

    What is no picture, and why, is added to `skipped`.
    """
    for path in _sub_folders(folder):
        if path.name not in names:
            raise UserError(f"{path}: there is no class {path.name} in training.")
    for entry in _list(folder):
        if not Path(entry.path).is_dir():
            skipped.append(f"{entry.path} (in no class)")
        elif entry.name.startswith("."):
            skipped.append(f"{entry.path} (hidden)")
    for label, name in enumerate(names):
        chosen = []
        if (folder / name).is_dir():
            chosen = sorted(_walk(folder / name, skipped))
        if not chosen:
            raise UserError(
                f"{folder / name} has no pictures ({', '.join(sorted(SUFFIXES))})."
            )
        for path in chosen:
            yield Encoded(str(path), label, path)


def _walk(folder: Path, skipped: list[str]) -> Iterator[Path]:
    """Yields the paths of the pictures in a folder and in deeper ones."""
    folders = [folder]
    while folders:
        for entry in _list(folders.pop()):
            path = Path(entry.path)
            if entry.name.startswith("."):
                reason = "hidden"
            elif entry.is_dir(follow_symlinks=False):
                folders.append(path)
                continue
            elif path.is_dir():
                reason = "a link to a folder"
            elif path.suffix.lower() not in SUFFIXES:
                reason = "not the suffix of a picture"
            elif not path.is_file():
                reason = "no file"
            else:
                yield path
                continue
            skipped.append(f"{path} ({reason})")

"""The sections with images: the sets, their evolution, their neighbours."""

import collections

import numpy as np

from dc_jax.base import SyntheticSet
from dc_jax.report import kept
from dc_jax.report.files import Files
from dc_jax.report.markup import figure, image, short, text
from dc_jax.sets.image_grid import tile, to_png

_COLUMNS = 5  # Images in a row: a phone has room for as many.
_IMAGE = 64  # Each image is at most as wide on the page, by a whole factor.
_PAIRED = 22  # With more classes, rows of two would be too many.
_SINGLE = 96  # The same for the only image of a class.


def sets(run: Files) -> str:
    """Returns the images of all sets; a click unfolds those after the first."""
    first, *others = map(_classes, run.sets) if run.sets else [""]
    page = f"<p>Set 1 of {len(run.sets)}</p>{first}" if others else first
    for number, body in enumerate(others, 2):
        name = f"Set {number} of {len(run.sets)}"
        page += f"<details><summary>{name}</summary>{body}</details>"
    return page


def _classes(synthetic: SyntheticSet) -> str:
    """Returns a figure for each class of a set."""
    pixels, is_image = kept.shown_pixels(synthetic), synthetic.labels >= 0
    is_shown = is_image[: len(pixels), : pixels.shape[1]]
    figures = []
    for label, name in enumerate(short(synthetic.class_names[: len(pixels)])):
        of_class = pixels[label, is_shown[label]][None]
        picture = _picture(of_class, is_image.shape[1], f"Images of class {name}")
        figures.append(figure(picture, text(name)))
    some, num = is_shown.sum(), is_image.sum()
    note = "" if some == num else f'<p class="soft">{some} of {num} images.</p>'
    return note + _in_rows(figures, is_image.shape[1])


def _in_rows(figures: list[str], ipc: int) -> str:
    """Returns a figure for each class, in rows.

    Ten classes shall not be nine and one. So figures of single images stand in groups
    of five, of which a row has one or two; others stand in pairs, where rows of three
    would leave one over.
    """
    is_paired = ipc > 1 and len(figures) % 6 == 4 and len(figures) <= _PAIRED
    if ipc == 1:
        starts = range(0, len(figures), _COLUMNS)
        groups = ["".join(figures[start : start + _COLUMNS]) for start in starts]
        figures = [f'<div class="five">{group}</div>' for group in groups]
    style = "classes pairs" if is_paired else "classes"
    style = "classes fives" if ipc == 1 else style
    return f'<div class="{style}">{"".join(figures)}</div>'


def _picture(pixels: np.ndarray, ipc: int, alt: str) -> str:
    """Returns images `[c, i, H, W, D]` of a set with `ipc` images per class as HTML."""
    scale = _scale(max(pixels.shape[2:4]), _SINGLE if ipc == 1 else _IMAGE)
    picture = tile(pixels, _COLUMNS)
    height, width = picture.shape[:2]
    return image(to_png(picture), alt, (width * scale, height * scale))


def _scale(size: int, aim: int = _IMAGE) -> int:
    """Returns the factor that enlarges `size` pixels to at most `aim`."""
    return max(aim // max(size, 1), 1)


def evolution(run: Files) -> str:
    """Returns a slider over the images of the first set after some iterations.

    The last images are those of the set itself.
    """
    frames = dict(run.snapshots)
    if run.sets and run.result.get("iterations") is not None:
        frames[run.result["iterations"]] = kept.snapshot(run.sets[0])
    if len(frames) < 2:
        return ""
    last, end = max(frames), len(frames) - 1
    size = (kept.size_of(frames[last])[0] + 1) // kept.ROW - 1
    before, after = "<div>", "</div>"
    if run.sets:
        shape = kept.shown_pixels(run.sets[0], kept.SNAPSHOT).shape
        names, size = short(run.sets[0].class_names[: shape[0]]), max(shape[2:4])
        if shape[1] == 1:
            how = "Row by row" if len(names) > kept.ROW else "From left to right"
            before = f'<p class="soft">{how}: {text(", ".join(names))}.</p><div>'
        else:
            items = "".join(f"<li>{text(name)}</li>" for name in names)
            before = f'<div class="rows"><ol aria-label="Rows">{items}</ol><div>'
            after = "</div></div>"
    pictures = ""
    for iteration, png in sorted(frames.items()):
        width, height = (_scale(size) * length for length in kept.size_of(png))
        is_hidden = "" if iteration == last else " hidden"
        attributes = f' data-iteration="{iteration}"{is_hidden}'
        alt = f"The images after {iteration} iterations"
        pictures += image(png, alt, (width, height), attributes)
    return (
        '<div class="slider"><label for="iteration">Iterations</label>'
        f'<input id="iteration" type="range" min="0" max="{end}" value="{end}">'
        f'<output for="iteration">after {last} iterations</output></div>'
        f"{before}{pictures}{after}"
    )


def neighbours(run: Files) -> str:
    """Returns the images of the first set, the nearest training image below each."""
    found = run.neighbours
    if found is None or not run.sets:
        return ""
    synthetic, names = run.sets[0], short(run.sets[0].class_names)
    pixels = kept.shown_pixels(synthetic)
    # The file may be left from another set.
    if pixels.shape != found.pixels.shape or found.labels.max() >= len(names):
        return ""
    figures = []
    for label, name in enumerate(names[: len(pixels)]):
        some = slice(0, min(_COLUMNS, int(np.sum(synthetic.labels[label] >= 0))))
        both = np.stack([pixels[label, some], found.pixels[label, some]])
        alt = f"Above: images of class {name}. Below: the nearest training images"
        picture = _picture(both, synthetic.labels.shape[1], alt)
        counts = collections.Counter(found.labels[label, some].tolist())
        classes = [f"{names[of]} ({number})" for of, number in counts.most_common()]
        nearest = ", ".join(classes) if len(classes) > 1 else names[next(iter(counts))]
        measure = "distance" if len(both[0]) == 1 else "mean distance"
        distance = f"{measure} {found.distances[label, some].mean():.2f}"
        caption = f"{text(name)}; nearest: {text(nearest)}"
        caption += f'<br><span class="soft">{distance}</span>'
        figures.append(figure(picture, caption))
    return (
        "<p>The upper images are those of the set. Below each is the training image "
        "with the nearest pixels, of any class. The distance is the root of the mean "
        "squared difference of the pixels, which range from 0 to 1.</p>"
        + _in_rows(figures, synthetic.labels.shape[1])
    )

"""Charts: where points lie, groups of points, and names that look like HTML."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from dc_jax.report.charts import line_chart


def _draw(lines, **options):
    """The `<svg>`, and the `<ul>` of its legend or None."""
    chart = line_chart(lines, label="a chart", x_label="iteration", **options)
    svg, *legend = ET.fromstring(f"<div>{chart}</div>")
    return svg, legend[0] if legend else None


def _points(svg, tag="polyline"):
    return [
        np.array([point.split(",") for point in element.get("points").split()], float)
        for element in svg.iter(tag)
    ]


def _texts(element):
    return ["".join(one.itertext()) for one in element]


def test_points_lie_between_the_ends_of_the_axes():
    svg, legend = _draw({"loss": ([0, 5, 10], [0, 1, 2])})
    (line,) = _points(svg)
    # The axes go from 0 to 10 and from 0 to 2: 60 to 456 and, upwards, 202 to 10.
    np.testing.assert_allclose(line, [[60, 202], [258, 106], [456, 10]])
    texts = [element.text for element in svg.iter("text")]
    assert {"0", "10", "2", "iteration"} <= set(texts)
    assert svg.get("aria-label") == "a chart"
    assert legend is None


@pytest.mark.parametrize(
    "values",
    [[3.0], [0.0], [2.5, 2.5], [-1.0, 1.0], [1e-12, 3e-12], [1e9, 2e9], [90.1, 89.7]],
)
def test_axes_enclose_whatever_the_values_are(values):
    svg, _ = _draw({"loss": (range(1, 1 + len(values)), values)})
    (line,) = _points(svg)
    assert len(line) == len(values)
    assert ((line[:, 0] >= 60) & (line[:, 0] <= 456)).all()
    assert ((line[:, 1] >= 10) & (line[:, 1] <= 202)).all()


def test_many_points_are_averaged_in_groups_and_their_spread_too():
    x, y = np.arange(1000), np.arange(1000) % 2
    svg, _ = _draw({"loss": (x, y)}, spread=(y - 1, y + 3))
    (line,) = _points(svg)
    assert len(line) == 334
    # Groups of three: 0, 1, 0 and 1, 0, 1; the last is of one. The axis: -1 to 4.
    y_axis = 202 - 38.4 * (np.array([1 / 3, 2 / 3]) + 1)
    np.testing.assert_allclose(line[:2, 1], y_axis, atol=0.06)
    (band,) = _points(svg, "polygon")
    assert len(band) == 2 * 334
    np.testing.assert_allclose(band[0, 1], line[0, 1] - 3 * 38.4, atol=0.11)
    np.testing.assert_allclose(band[-1, 1], line[0, 1] + 38.4, atol=0.11)


def test_few_points_are_marked():
    x = range(30)
    assert len(list(_draw({"a": (x, x)})[0].iter("circle"))) == 30
    x = range(31)
    assert not list(_draw({"a": (x, x)})[0].iter("circle"))


def test_several_lines_have_a_colour_each_and_a_legend():
    names = ["conv/kernel", "<b>&", 'dense"']
    svg, legend = _draw({name: ([1, 2], [i, i + 1]) for i, name in enumerate(names)})
    strokes = [line.get("stroke") for line in svg.iter("polyline")]
    assert len(set(strokes)) == 3
    assert _texts(legend) == names
    grounds = [item[0].get("style") for item in legend]
    assert grounds == [f"background:{stroke}" for stroke in strokes]


def test_the_label_is_escaped():
    chart = line_chart({"a": ([1], [1])}, label='"><script>', x_label="<i>")
    assert "<script>" not in chart
    assert "<i>" not in chart
    assert ET.fromstring(chart).get("aria-label") == '"><script>'

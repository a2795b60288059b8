import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xmodal.evaluation.report.curve import (
    HEIGHT,
    MOST_POINTS,
    WIDTH,
    curve,
    overlaid,
    precision_recall,
    smoothed,
    ticks,
)


def lines_of(drawing: str) -> dict[str, list[tuple[float, float]]]:
    lines = {}
    for line in ET.fromstring(drawing).iter("polyline"):
        places = [place.split(",") for place in line.attrib["points"].split()]
        lines[line.attrib["class"]] = [(float(x), float(y)) for x, y in places]
    return lines


def test_a_falling_loss_goes_right_and_down() -> None:
    places = lines_of(curve([(0, 3.0), (50, 2.0), (100, 1.0)], "loss"))["raw"]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    # In SVG down is up: the axis counts from the top.
    assert [y for _, y in places] == sorted(y for _, y in places)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
@example([0.0, 5e-324])
def test_every_point_lies_in_the_picture(values: list[float]) -> None:
    lines = lines_of(curve(list(enumerate(values)), "loss"))
    assert len(lines["raw"]) == len(lines["smooth"]) == len(values)
    for x, y in lines["raw"] + lines["smooth"]:
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT


def test_points_that_are_not_finite_are_left_out() -> None:
    points = [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]
    assert len(lines_of(curve(points, "loss"))["raw"]) == 2
    assert curve(points[:3], "loss") == ""
    assert curve([], "loss") == ""


def test_a_line_of_one_point_is_a_dot_beside_others() -> None:
    drawing = overlaid({"a": [(0, 1.0), (4, 3.0)], "b": [(4, 2.0)], "c": []}, "rsum")
    (dot,) = ET.fromstring(drawing).iter("circle")
    lines = lines_of(drawing)
    assert (set(lines), dot.attrib["class"]) == ({"a"}, "b")
    (_, bottom), (right, top) = lines["a"]
    assert float(dot.attrib["cx"]) == right
    assert float(dot.attrib["cy"]) == pytest.approx((bottom + top) / 2, abs=0.1)
    assert overlaid({"a": [(4, 1.0)], "b": [(4, 2.0)]}, "rsum") == ""


def test_a_long_run_stays_a_small_picture() -> None:
    drawing = curve([(step, math.sin(step)) for step in range(25_001)], "loss")
    assert len(lines_of(drawing)["raw"]) <= MOST_POINTS


def test_the_name_is_escaped() -> None:
    drawing = ET.fromstring(curve([(0, 1.0), (1, 2.0)], 'a"b<c>'))
    assert drawing.attrib["aria-label"] == 'a"b<c> by step'


def test_precision_is_drawn_by_recall_from_none_to_all() -> None:
    drawing = precision_recall({"one": [100, 50, 0], "other": [40, 40, 40]}, "class")
    lines = lines_of(drawing)
    (left, top), (middle, half), (right, bottom) = lines["one"]
    assert left < middle < right
    assert middle - left == pytest.approx(right - middle, abs=0.1)
    # The axis is the same whatever the values are: none of the panel is above 100 or below 0.
    assert top < half < bottom
    assert {round(y, 1) for _, y in lines["other"]} == {round(bottom + 0.4 * (top - bottom), 1)}
    labels = [text.text for text in ET.fromstring(drawing).iter("text")]
    assert labels == ["0", "20", "40", "60", "80", "100", "0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert ET.fromstring(drawing).attrib["aria-label"] == "class: precision by recall"


@given(st.floats(-1e6, 1e6), st.floats(1e-2, 1e9))
def test_ticks_are_few_and_within_the_range(low: float, width: float) -> None:
    high = low + width
    found = ticks(low, high)
    assert len(found) <= 6
    assert found == sorted(found)
    assert all(low - 1e-6 * width <= value <= high + 1e-6 * width for value in found)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.05, 0.42, [0.1, 0.2, 0.3, 0.4]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (2, 2, [2]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_smoothing_is_the_mean_of_neighbours() -> None:
    points = [(i, float(i % 2)) for i in range(100)]
    middle = smoothed(points, share=0.01)[1:-1]
    assert {round(y, 6) for _, y in middle} == {round(1 / 3, 6), round(2 / 3, 6)}
    assert smoothed(points[:3]) == points[:3]

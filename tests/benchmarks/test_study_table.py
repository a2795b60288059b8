"""Tables of studies: means, spreads, and differences of runs of one seed."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from benchmarks.studies.study import Study
from benchmarks.study_table import by_variant, differences, interval, table

COLUMNS = {"rsum": "rsum", "mAP": "class/map", "probe": "gap/probe_accuracy"}


def test_the_table_has_means_and_spreads_of_what_was_measured() -> None:
    found = {"a": [{"relevance/rsum": 10.0, "class/map": 3.0}, {"relevance/rsum": 12.0}], "b": [{}]}
    assert list(table(found, COLUMNS)) == [
        "|  | rsum | mAP |",
        "| --- | --- | --- |",
        "| a | 11.0 ± 1.4 | 3.0 |",
        "| b |  |  |",
    ]


def test_intervals_are_those_of_a_paired_t_test() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 5))
    expected = ttest_rel(one, other).confidence_interval(0.95)
    assert interval(list(one - other)) == pytest.approx((expected.low, expected.high))


def test_differences_are_between_runs_of_one_seed() -> None:
    found = {
        "a": [{"rsum": 11.0, "class/map": 5.0}, {"rsum": 22.0}, {"rsum": 33.0}],
        "b": [{"rsum": 10.0}, {"rsum": 20.0}, {"rsum": 30.0}],
        "once": [{"rsum": 10.0, "class/map": 4.0}],
    }
    pairs = [("a", "b"), ("a", "once"), ("a", "not measured")]
    study = Study({}, {}, COLUMNS, differences=pairs, compared=["rsum", "mAP", "probe"])
    assert list(differences(found, study)) == [
        "| difference | rsum | mAP |",
        "| --- | --- | --- |",
        "| a − b | +2.0 (−0.5 to +4.5) |  |",
        "| a − once | +12.0 (−15.3 to +39.3) | +1.0 |",
        "",
    ]


def test_variants_of_protocols_are_rows_of_their_own() -> None:
    metrics = {"class/map": 1.0, "class-by-distance/map": 2.0, "steps": 3.0}
    assert dict(by_variant("a", metrics, {"-by-distance": "by distance"})) == {
        "a": {"class/map": 1.0, "steps": 3.0},
        "a, by distance": {"class/map": 2.0},
    }
    assert dict(by_variant("a", metrics, {})) == {"a": metrics}

"""Clusters: separated groups are found, and weights even them out."""

from pathlib import Path

import numpy as np
import pytest

from tests.search.curation.sets import made_set, unit
from xmodal.errors import UserError
from xmodal.search.curation.clusters import clusters

SIZES = (40, 25, 10, 5)


@pytest.mark.parametrize("each", [(), (2,)])
def test_separated_groups_are_clusters(tmp_path: Path, each: tuple[int, ...]) -> None:
    group = np.random.default_rng(0).permutation(np.repeat(range(4), SIZES))
    centres = np.eye(8, dtype=np.float32)[group].reshape(80, *(1 for _ in each), 8)
    vectors = centres + 0.1 * unit(80, *each, 8)
    outcome = clusters(made_set(tmp_path, vectors), 4)
    labels = outcome.tables["clusters"]["cluster"].to_numpy()
    assert (labels == group).all()  # the largest is the first
    assert outcome.weights is not None
    for number in range(4):
        assert outcome.weights[labels == number].sum() == pytest.approx(20)
    assert (outcome.tables["clusters"]["similarity"].to_numpy() > 0.9).all()
    again = clusters(made_set(tmp_path / "again", vectors), 4)
    assert again.tables["clusters"] == outcome.tables["clusters"]
    assert [len(section.figures) for section in outcome.sections] == [6, 6, 6, 5]


def test_there_are_no_more_clusters_than_images(tmp_path: Path) -> None:
    searcher = made_set(tmp_path, unit(3, 4))
    assert clusters(searcher, 3).numbers["clusters"] == "3"
    with pytest.raises(UserError, match="there are 3 images to cluster"):
        clusters(searcher, 4)

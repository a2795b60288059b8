"""The file of results of queries: read back as written, and with its own results.json alone."""

from pathlib import Path

import pytest
import torch

from xmodal.errors import UserError
from xmodal.evaluation.per_query import NOWHERE, PerQuery
from xmodal.evaluation.report.query_file import FILE, read_queries, write_queries

NUMBERS = torch.tensor([[0, 9], [2, 9], [5, 9]])[:, 0]
FOUND = [
    PerQuery(
        "relevance/image_to_text",
        "image",
        NUMBERS,
        torch.zeros(3, dtype=torch.int64),
        {"recall": torch.tensor([0, NOWHERE, 7])},
    ),
    PerQuery("class/image_to_text", "image", NUMBERS, NUMBERS, values={"map": torch.ones(3)}),
    PerQuery(
        "aro/a/../b",
        "caption",
        torch.tensor([4]),
        torch.tensor([1]),
        values={"accuracy": torch.tensor([100.0], dtype=torch.float64)},
    ),
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_queries(tmp_path, "{}\n", FOUND)
    found = read_queries(tmp_path, "{}\n")
    assert found is not None
    assert list(found) == [one.name for one in FOUND]
    for one in FOUND:
        other = found[one.name]
        assert other.role == one.role
        assert torch.equal(other.numbers, one.numbers)
        assert torch.equal(other.captions, one.captions)
        for ours, theirs in ((one.ranks, other.ranks), (one.values, other.values)):
            assert {k: v.tolist() for k, v in ours.items()} == {
                k: v.tolist() for k, v in theirs.items()
            }


def test_results_of_an_earlier_version_or_of_a_killed_evaluation_have_none(tmp_path: Path) -> None:
    assert read_queries(tmp_path, "{}\n") is None
    write_queries(tmp_path, "{}\n", FOUND)
    assert read_queries(tmp_path, '{"a": 1}\n') is None
    write_queries(tmp_path, "{}\n", [])
    assert read_queries(tmp_path, "{}\n") == {}


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    write_queries(tmp_path, "{}\n", FOUND)
    whole = (tmp_path / FILE).read_bytes()
    for damaged in (whole[:-5], b"\xff" * 100, b"", whole.replace(b"caption", b"sorcery")):
        (tmp_path / FILE).write_bytes(damaged)
        with pytest.raises(UserError, match=f"{FILE} is damaged; evaluate again"):
            read_queries(tmp_path, "{}\n")

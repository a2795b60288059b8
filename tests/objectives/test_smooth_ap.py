import pytest
import torch
import torch.nn.functional as F

from xmodal.objectives.pairwise.positives import places_of_equal
from xmodal.objectives.smooth_ap import SmoothAp


def test_places_of_equal_ids() -> None:
    rows, columns = torch.tensor([7, 3, 5]), torch.tensor([5, 7, 5, 9, 5])
    places, largest = places_of_equal(rows, columns)
    assert places.tolist() == [[1, -1, -1], [-1, -1, -1], [0, 2, 4]]
    assert largest == 3
    assert places_of_equal(rows, columns, 2)[0].tolist() == [[1, -1], [-1, -1], [0, 2]]


def test_known_numbers_of_positives_change_nothing_and_fewer_end_the_run() -> None:
    x, y = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([1, 1, 1, 2, 2, 3])
    counted, known, few = (SmoothAp(temperature=0.1, most_positives=one) for one in (None, 5, 2))
    torch.testing.assert_close(known(x, y, ids), counted(x, y, ids))
    assert few(x, y, ids).isnan()
    values = {name: value.item() for name, value in few.monitors.items()}
    assert "a batch has 3 pairs of one id, more than the 2 of" in (few.failure_reason(values) or "")
    assert known.failure_reason(values) is counted.failure_reason(values) is None


def test_at_a_low_temperature_it_is_the_average_precision() -> None:
    """By rows: ranks 1 and 3 of two positives, AP (1/1 + 2/3) / 2; by columns ranks 1 and 2."""
    scores = torch.tensor([[0.9, 0.5, 0.7], [0.8, 0.6, 0.4], [0.1, 0.2, 0.3]])
    ids = torch.tensor([4, 4, 8])
    loss = SmoothAp(temperature=1e-4)(torch.eye(3), scores.T.contiguous(), ids)
    rows = [(1 + 2 / 3) / 2, 1, 1]
    columns = [1, 1, 1 / 3]  # of the third column, 0.3 comes after 0.7 and 0.4
    assert loss.item() == pytest.approx(1 - sum(rows + columns) / 6, abs=1e-5)


def test_it_learns_ranks() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 40, 8, generator=generator)
    x = x.requires_grad_()
    loss, first = SmoothAp(temperature=0.1), None
    optimizer = torch.optim.Adam([x], lr=0.05)
    for _ in range(60):
        value = loss(F.normalize(x), F.normalize(y))
        first = first or value.item()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert first > 0.8
    assert value.item() < 0.3

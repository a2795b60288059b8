import pytest
import torch

from xmodal.objectives import NormSoftmax, ProxyAnchor


@pytest.mark.parametrize("kind", [NormSoftmax, ProxyAnchor])
@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 3]), torch.tensor([0, -1]), torch.tensor([0]), torch.zeros(2)]
)
def test_labels_that_name_no_proxy_are_refused(kind: type, labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="labels must be int64 from 0 to 2, one for each of 2"):
        kind(3, 4)(torch.randn(2, 4), labels)


@pytest.mark.parametrize("kind", [NormSoftmax, ProxyAnchor])
def test_it_separates_classes(kind: type) -> None:
    torch.manual_seed(0)
    loss = kind(5, 8)
    x, labels = torch.randn(40, 8, requires_grad=True), torch.arange(40) % 5
    optimizer = torch.optim.Adam([x, *loss.parameters()], lr=0.1)
    for _ in range(60):
        value = loss(x, labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    nearest = (
        torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(loss.proxies.weight).T
    )
    assert (nearest.argmax(1) == labels).all()

"""SimSiam and PTF-SimCM: their losses by formula, what a view sees, what images are found by."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.data.batch import Batch
from xmodal.methods.ptf_simcm import PtfSimcm, PtfSimcmConfig
from xmodal.methods.simsiam import Simsiam, SimsiamConfig
from xmodal.models.late_fusion import SenseChoice
from xmodal.models.projector import Predictor, Projector

BATCH, SENTENCE, SENSES, DIM = 6, 5, 3, 8
VIEWS: dict[str, Any] = {
    "image": {
        "kind": "timm",
        "name": "test_resnet",
        "size": 16,
        "options": {"norm_layer": "groupnorm1"},
    },
    "projection": DIM,
    "prediction": 4,
}
TEXTS: dict[str, Any] = {
    "text": {"kind": "features", "features": 7},
    "text_head": {},
    "sentence": SENTENCE,
    "senses": SENSES,
    "margin": 0.3,
}


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixels(seed: int) -> Tensor:
    return torch.randint(
        0, 256, (BATCH, 3, 16, 16), generator=torch.Generator().manual_seed(seed)
    ).to(torch.uint8)


@pytest.fixture
def batch() -> Batch:
    """Two views of images, each with a caption of four words; two are of one image."""
    return Batch(
        images=pixels(0),
        second_images=pixels(1),
        text_features=drawn(BATCH, 4, 7, seed=2),
        second_text_features=drawn(BATCH, 4, 7, seed=3),
        image_ids=torch.tensor([0, 1, 2, 3, 4, 0]),
    )


def simsiam(**changes: Any) -> Simsiam:
    torch.manual_seed(1)
    method = SimsiamConfig(**VIEWS, **changes).build(vocabulary=0)
    assert isinstance(method, Simsiam)
    return method


def ptf(**changes: Any) -> PtfSimcm:
    torch.manual_seed(1)
    method = PtfSimcmConfig(**VIEWS, **TEXTS | changes).build(vocabulary=0)
    assert isinstance(method, PtfSimcm)
    return method


def touched(method: nn.Module, loss: Tensor) -> set[str]:
    """The parts, two names deep, that learn from a loss."""
    method.zero_grad(set_to_none=True)
    loss.backward()
    return {
        ".".join(name.split(".")[:2])
        for name, parameter in method.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }


# -- SimSiam --


def test_projector_and_predictor_are_the_papers() -> None:
    """Against torch's own layers in the order of the paper's code, in training mode."""
    projector = nn.Sequential(
        nn.Linear(6, DIM, bias=False), nn.BatchNorm1d(DIM), nn.ReLU(),
        nn.Linear(DIM, DIM, bias=False), nn.BatchNorm1d(DIM), nn.ReLU(),
        nn.Linear(DIM, DIM, bias=False), nn.BatchNorm1d(DIM, affine=False),
    )  # fmt: skip
    predictor = nn.Sequential(
        nn.Linear(DIM, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, DIM)
    )
    x = drawn(BATCH, 6, seed=0)
    for ours, theirs, given in (
        (Projector(6, DIM), projector, x),
        (Predictor(DIM, 4), predictor, projector(x)),
    ):
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(given), theirs(given))


def test_simsiam_has_the_papers_loss(batch: Batch) -> None:
    method = simsiam()
    found = method.encode(batch)
    z1, z2 = (method.projector(method.image(view)) for view in (batch.images, batch.second_images))
    p1, p2 = method.predictor(z1), method.predictor(z2)
    cosines = F.cosine_similarity(p1, z2.detach()) + F.cosine_similarity(p2, z1.detach())
    (loss,) = method.objective(found).values()
    torch.testing.assert_close(loss, -cosines.mean() / 2)
    assert list(method.losses) == ["self_distillation"]
    assert {part.split(".")[0] for part in touched(method, loss)} == {
        "image",
        "projector",
        "predictor",
    }
    assert found.images is None


@pytest.mark.parametrize("retrieved", ["features", "projection"])
def test_images_are_found_by_features_or_projections(retrieved: str, batch: Batch) -> None:
    method = simsiam(retrieved=retrieved).eval()
    expected = method.image(batch.images)
    if retrieved == "projection":
        expected = method.projector(expected)
    found = method.encode(Batch(images=batch.images))
    torch.testing.assert_close(found.images, F.normalize(expected, dim=1))
    assert found.fused is None
    assert found.p1 is None


def values(method: Simsiam) -> dict[str, float]:
    return {name: float(value) for name, value in method.monitors.items()}


def test_a_run_stops_once_it_stays_collapsed(batch: Batch) -> None:
    method = simsiam(collapse={"share": 0.1, "readings": 2})
    same = replace(batch, images=pixels(0)[:1].repeat(BATCH, 1, 1, 1))
    same = replace(same, second_images=same.images)
    said = []
    for step in (same, batch, same, same):
        method.objective(method.encode(step))
        said.append(method.failure_reason(values(method)))
    assert said[:3] == [None, None, None]
    assert said[3].startswith("embeddings have collapsed into one: channel_std is ")
    assert "0.35 (1/√dim), at 2 logged steps in a row; train with a lower optimizer.lr" in said[3]
    strict = simsiam(collapse={"share": 0.9999, "readings": 1})
    strict.negative_cosine.monitors = {"channel_std": torch.tensor(0.9998 * DIM**-0.5)}
    assert "channel_std is 0.353, where directions that are spread have 0.354 " in (
        strict.failure_reason(values(strict)) or ""
    )
    never = simsiam(collapse={"share": 0, "readings": 1})
    never.objective(never.encode(same))
    assert never.failure_reason(values(never)) is None


# -- PTF-SimCM --


@pytest.mark.parametrize("hard", [False, True])
def test_an_image_chooses_the_sense_that_fits(hard: bool) -> None:
    choice = SenseChoice(4, SENTENCE, temperature=0.2, hard=hard)
    images, senses = drawn(3, 4, seed=0), drawn(3, SENSES, SENTENCE, seed=1)
    senses = F.normalize(senses, dim=2)
    looks = choice.looks(images)
    chosen = choice(looks, senses)
    for row in range(3):
        wanted = choice.look(images[row])
        cosines = torch.stack([F.cosine_similarity(wanted, s, dim=0) for s in senses[row]])
        soft = (cosines / 0.2).softmax(0)
        expected = senses[row][cosines.argmax()] if hard else soft @ senses[row]
        torch.testing.assert_close(chosen[row], expected)
        # Even the best alone is learned by as the mean of all is.
        by_soft = torch.autograd.grad(
            (soft @ senses[row]).sum(), choice.look.weight, retain_graph=True
        )
        by_ours = torch.autograd.grad(chosen[row].sum(), choice.look.weight, retain_graph=True)
        torch.testing.assert_close(by_ours, by_soft, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("fusion", ["concatenation", "sum", "gated"])
def test_the_views_predict_each_other_with_their_own_captions(fusion: str, batch: Batch) -> None:
    method = ptf(fusion=fusion)
    losses = method.objective(method.encode(batch))
    assert list(losses) == ["self_distillation", "diversity", "discrepancy", "matching"]
    views = []
    for images, text in (
        (batch.images, batch.text_features),
        (batch.second_images, batch.second_text_features),
    ):
        features, (senses, _) = method.image(images), method.text(features=text)
        chosen = method.fusion.choice(method.fusion.choice.looks(features), senses)
        z = method.projector(method.fusion.mix(features, chosen))
        views.append((method.predictor(z), z.detach()))
    (p1, z1), (p2, z2) = views
    expected = -(F.cosine_similarity(p1, z2) + F.cosine_similarity(p2, z1)).mean() / 2
    torch.testing.assert_close(losses["self_distillation"], expected)
    assert touched(method, losses["self_distillation"]) == {
        "image.backbone", "text.head", "text.pie", "fusion.choice", "fusion.mix",
        *(f"projector.{layer}" for layer in (0, 1, 3, 4, 6)),
        *(f"predictor.{layer}" for layer in (0, 1, 3)),
    }  # fmt: skip


def test_losses_of_senses_are_pvses(batch: Batch) -> None:
    method = ptf(gamma=0.7)
    found = method.encode(batch)
    losses = method.objective(found)
    directions = F.normalize(found.residuals, dim=3)
    others = (directions @ directions.mT) * (1 - torch.eye(SENSES))
    diversity = others.flatten(2).norm(dim=2).mean() / SENSES**2
    torch.testing.assert_close(losses["diversity"], diversity)
    looks, senses = found.looks.flatten(0, 1), found.senses.flatten(0, 2)
    kernels = [
        torch.exp(-0.7 * torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")).mean()
        for a, b in ((looks, looks), (looks, senses), (senses, senses))
    ]
    discrepancy = kernels[0] - 2 * kernels[1] + kernels[2]
    torch.testing.assert_close(losses["discrepancy"], discrepancy, rtol=1e-4, atol=1e-5)
    matching = []
    for view in range(2):
        best = torch.stack(
            [(found.looks[i, view] @ found.senses[:, view].mT).amax(1) for i in range(BATCH)]
        )
        same = batch.image_ids[:, None] == batch.image_ids
        for scores in (best, best.T):
            costs = (0.3 + scores - scores.diagonal()[:, None]).clamp(min=0)
            matching.append(costs.masked_fill(same, 0).amax(1).mean())
    torch.testing.assert_close(losses["matching"], sum(matching) / 2)
    assert touched(method, losses["diversity"]) == {"text.pie"}
    of_texts = {"image.backbone", "text.head", "text.pie", "fusion.choice"}
    assert touched(method, method.matching(method.encode(batch))) == of_texts


def test_a_text_that_is_left_out_is_not_seen(batch: Batch) -> None:
    """Of the first view those of the first three images, of the second none."""
    method = ptf(fusion="sum").eval()  # so that samples do not see each other
    left_out = torch.zeros(BATCH, 2, dtype=torch.bool)
    left_out[:3, 0] = True
    batch = replace(batch, text_dropped=left_out)
    other = replace(
        batch,
        text_features=batch.text_features.flip(1) + 1,
        second_text_features=batch.second_text_features.flip(1) + 1,
    )
    found, changed = method.encode(batch), method.encode(other)
    assert found.z1[:3].equal(changed.z1[:3])
    assert (found.z1[3:] != changed.z1[3:]).any(1).all()
    assert (found.z2 != changed.z2).any(1).all()
    assert "fusion.absent" in touched(method, found.z1[:3].square().sum())
    assert "fusion.absent" not in touched(method, method.encode(batch).z2.square().sum())


def test_images_are_found_alone_and_with_their_texts(batch: Batch) -> None:
    method = ptf(fusion="sum").eval()
    both = method.encode(Batch(images=batch.images, text_features=batch.text_features))
    alone = method.encode(Batch(images=batch.images))
    assert alone.fused is None
    assert alone.images.equal(both.images)
    # A stand-in that was never learned leaves the features as they are.
    torch.testing.assert_close(alone.images, F.normalize(method.image(batch.images), dim=1))
    assert not torch.allclose(both.fused, both.images)
    torch.testing.assert_close(both.fused.norm(dim=1), torch.ones(BATCH))
    # A caption of one vector is one of one word.
    pooled = method.encode(Batch(images=batch.images, text_features=drawn(BATCH, 7, seed=4)))
    assert pooled.fused.shape == both.fused.shape


def test_one_sense_leaves_nothing_to_choose(batch: Batch) -> None:
    method = ptf(senses=1)
    loss = method.objective(method.encode(batch))["self_distillation"]
    assert "fusion.choice" not in touched(method, loss)

"""VSE++, PVSE, MITE and UNCSM: their losses by formula, who learns from which, how they score."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from xmodal.data.batch import Batch
from xmodal.errors import UserError
from xmodal.methods.method import Method
from xmodal.methods.mite import MiteConfig
from xmodal.methods.pvse import PvseConfig
from xmodal.methods.uncsm import UncsmConfig
from xmodal.methods.vsepp import VseppConfig

SIDES: dict[str, Any] = {
    "image": {"kind": "features", "features": 6},
    "text": {"kind": "features", "features": 5},
    "embedding": 4,
}
BATCH, SENSES = 7, 3


@pytest.fixture
def batch() -> Batch:
    """Pairs of five images in three classes, two of them twice; each side of several parts."""
    generator = torch.Generator().manual_seed(0)
    return Batch(
        image_features=torch.randn(BATCH, 2, 6, generator=generator),
        text_features=torch.randn(BATCH, 3, 5, generator=generator),
        image_ids=torch.tensor([0, 1, 2, 3, 4, 0, 1]),
        labels=torch.tensor([0, 1, 2, 0, 1, 0, 1]),
    )


def made(config: Any, **changes: Any) -> Method:
    torch.manual_seed(1)
    return config(**SIDES, **changes).build(vocabulary=0).eval()


def of_parts_alone(batch: Batch) -> Batch:
    """A batch of one feature vector a side, as methods without PIE-Nets take it."""
    return Batch(
        image_features=batch.image_features[:, 0],
        text_features=batch.text_features[:, 0],
        image_ids=batch.image_ids,
        labels=batch.labels,
    )


def losses_of(method: Method, batch: Batch, *names: str) -> Mapping[str, Tensor]:
    method.begin_stage(names)
    method.on_step_start(0.5, seed=3)
    return method.objective(method.encode(batch))


def hinges(scores: Tensor, ids: Tensor, margin: float) -> Tensor:
    """[α + s(i, j) − s(i, i)]₊ of all pairs, 0 where j is no negative of i."""
    costs = (margin + scores - scores.diagonal()[:, None]).clamp(min=0)
    return costs.masked_fill(ids[:, None] == ids, 0)


def touched(method: Method, loss: Tensor) -> set[str]:
    """The parts that learn from a loss."""
    method.zero_grad(set_to_none=True)
    loss.backward()
    return {
        name.split(".")[0]
        for name, parameter in method.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }


@pytest.mark.parametrize("config", [VseppConfig, MiteConfig])
def test_vsepp_has_the_papers_hinges(config: Any, batch: Batch) -> None:
    method = made(config, margin=0.3)
    batch = of_parts_alone(batch)
    images, texts = method.encode(batch).images, method.encode(batch).texts
    both_ways = [hinges(s, batch.image_ids, 0.3) for s in (images @ texts.T, texts @ images.T)]
    losses = losses_of(method, batch, "sum", "hardest", "semi_hard")
    assert list(losses) == ["sum", "hardest", "semi_hard"]
    torch.testing.assert_close(losses["sum"], sum(h.sum() for h in both_ways) / BATCH)
    torch.testing.assert_close(losses["hardest"], sum(h.amax(1).sum() for h in both_ways) / BATCH)
    assert losses["semi_hard"] <= losses["hardest"]
    assert touched(method, losses["hardest"]) == {"image", "text"}


def test_a_stage_minimises_what_it_names(batch: Batch) -> None:
    assert list(losses_of(made(VseppConfig), of_parts_alone(batch), "hardest")) == ["hardest"]


@pytest.mark.parametrize("encoders", ["reversal", "flipped", "confusion"])
def test_mites_classifier_and_encoders_learn_apart(encoders: str, batch: Batch) -> None:
    changes = {"classifier": {"hidden": [4, 3]}, "slope_penalty": 0}
    method = made(MiteConfig, adversary={"encoders": encoders}, **changes)
    batch = of_parts_alone(batch)
    found = method.encode(batch)
    logs = [method.classifier(side).log_softmax(1) for side in (found.images, found.texts)]
    right = -(logs[0][:, 0].mean() + logs[1][:, 1].mean()) / 2
    wrong = -(logs[0][:, 1].mean() + logs[1][:, 0].mean()) / 2
    expected = {"reversal": -right, "flipped": wrong, "confusion": (right + wrong) / 2}
    losses = losses_of(method, batch, "classifier", "adversarial")
    torch.testing.assert_close(losses["classifier"], right)
    torch.testing.assert_close(losses["adversarial"], expected[encoders])
    assert touched(method, losses["classifier"]) == {"classifier"}
    assert touched(method, losses["adversarial"]) == {"image", "text"}
    assert 0 <= method.monitors["adversary_accuracy"] <= 1


def test_mites_classifier_is_penalised_by_the_seed_of_the_step(batch: Batch) -> None:
    method, batch = made(MiteConfig), of_parts_alone(batch)
    method.active_losses = ("classifier",)
    found = []
    for seed in (1, 1, 2):
        method.on_step_start(0.5, seed)
        found.append(method.objective(method.encode(batch))["classifier"])
    assert found[0] == found[1] != found[2]


def test_a_classifier_by_its_widths_alone_is_that_of_before(batch: Batch) -> None:
    before = {"classifier": [4, 3], "classifier_dropout": 0.25}
    config = MiteConfig.model_validate({**SIDES, **before})
    assert config.classifier.model_dump() == {"hidden": [4, 3], "dropout": 0.25, "scale": False}
    assert config.slope_penalty == 0
    assert MiteConfig.model_validate(config.model_dump()) == config
    layers = made(MiteConfig, **before).classifier.layers
    assert [type(layer).__name__ for layer in layers[:3]] == ["Linear", "LeakyReLU", "Dropout"]


def test_pvse_scores_by_its_best_senses_and_learns_by_them(batch: Batch) -> None:
    method = made(PvseConfig, senses=SENSES, margin=0.3)
    found = method.encode(batch)
    assert found.images.shape == found.texts.shape == (BATCH, SENSES, 4)
    scores = torch.stack(
        [torch.stack([(v @ t.T).max() for t in found.texts]) for v in found.images]
    )
    torch.testing.assert_close(method.score(found.images, found.texts[:5]), scores[:, :5])
    both_ways = [hinges(s, batch.image_ids, 0.3) for s in (scores, scores.T)]
    losses = losses_of(method, batch, "hardest", "sum", "diversity", "discrepancy")
    torch.testing.assert_close(losses["hardest"], sum(h.amax(1).sum() for h in both_ways) / BATCH)
    torch.testing.assert_close(losses["sum"], sum(h.sum() for h in both_ways) / BATCH)
    for side, residuals in (("image", found.image_residuals), ("text", found.text_residuals)):
        assert residuals.shape == (BATCH, SENSES, 4), side
    directions = [torch.nn.functional.normalize(r, dim=2) for r in
                  (found.image_residuals, found.text_residuals)]  # fmt: skip
    others = [(d @ d.mT) * (1 - torch.eye(SENSES)) for d in directions]
    diversity = sum(o.flatten(1).norm(dim=1).mean() for o in others) / SENSES**2
    torch.testing.assert_close(losses["diversity"], diversity)
    assert touched(method, sum(losses.values())) == {"image", "text"}


def test_uncsm_learns_by_class_and_its_metric_network_last(batch: Batch) -> None:
    method = made(UncsmConfig, metric=[6, 5], margin=0.8, triplets=2)
    batch = of_parts_alone(batch)
    images, texts = method.encode(batch).images, method.encode(batch).texts
    distances = torch.cdist(images, texts)
    similar = batch.labels[:, None] == batch.labels
    costs = distances.square().where(similar, (0.8 - distances).clamp(min=0).square())
    losses = losses_of(method, batch, "contrastive", "double_triplet")
    torch.testing.assert_close(losses["contrastive"], costs.sum() / (2 * BATCH))
    assert 0 < losses["double_triplet"] < 5
    assert touched(method, losses["contrastive"]) == {"image", "text"}
    assert touched(method, losses_of(method, batch, "metric")["metric"]) == {
        "image",
        "text",
        "metric",
    }
    assert 0 <= method.monitors["metric_accuracy"] <= 1


def test_uncsm_draws_other_triplets_at_each_step(batch: Batch) -> None:
    method = made(UncsmConfig)
    method.begin_stage(("double_triplet",))
    values = []
    for seed in (1, 1, 2):
        method.on_step_start(0.0, seed)
        values.append(
            method.objective(method.encode(of_parts_alone(batch)))["double_triplet"].item()
        )
    assert values[0] == values[1] != values[2]


def test_uncsm_is_searched_by_distance_until_its_metric_is_trained(batch: Batch) -> None:
    method = made(UncsmConfig, metric=[6, 5])
    batch = of_parts_alone(batch)
    images, texts = method.encode(batch).images, method.encode(batch).texts[:5]
    by_distance = (-torch.cdist(images, texts)).argsort(1)
    method.begin_stage(("double_triplet",))
    assert method.shortlist is None
    assert method.score(images, texts).argsort(1).equal(by_distance)
    method.begin_stage(("metric",))
    assert method.shortlist(images, texts).argsort(1).equal(by_distance)
    odds = torch.stack([method.score_pairs(v.expand(5, -1), texts) for v in images])
    torch.testing.assert_close(method.score(images, texts), odds)
    logits = method.metric(images[:1], texts[:1]).softmax(1)
    torch.testing.assert_close(odds[0, 0].sigmoid(), logits[0, 1])
    # Whoever loads the weights searches by it too.
    again = made(UncsmConfig, metric=[6, 5])
    again.load_state_dict(method.state_dict())
    torch.testing.assert_close(again.score(images, texts), odds)


def test_without_a_head_features_are_the_embedding() -> None:
    with pytest.raises(UserError, match=r"image_head is null, so method\.embedding has to be 6"):
        made(VseppConfig, image_head=None)
    sides = SIDES | {"image": {"kind": "features", "features": 4}}
    method = VseppConfig(**sides, image_head=None).build(vocabulary=0)
    features = torch.randn(2, 4)
    embedded = method.encode(Batch(image_features=features)).images
    torch.testing.assert_close(embedded, torch.nn.functional.normalize(features))

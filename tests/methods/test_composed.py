"""TIRG and DIM: their losses by formula in float64, who learns from which, what they read."""

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from xmodal.assembly.recipe import read_recipe
from xmodal.data.batch import Batch
from xmodal.methods.dim import DimConfig
from xmodal.methods.method import Method
from xmodal.methods.tirg import Tirg, TirgConfig
from xmodal.training.parts import parameter_groups

RECIPES = Path(__file__).parents[2] / "launch" / "recipes"
SIZE, BATCH, DIM = 64, 6, 5
TOKENS = torch.tensor([[1, 2, 3], [4, 5, 0], [6, 0, 0], [7, 1, 2], [3, 3, 0], [8, 2, 1]])
ENCODERS: dict[str, Any] = {
    "image": {"kind": "timm", "name": "test_resnet", "size": SIZE},
    "text": {"kind": "lstm", "word": 8, "width": 7},
    "embedding": DIM,
}
IDS = torch.tensor([0, 1, 2, 3, 4, 1])  # two queries ask for the same target
SOURCES = torch.tensor([9, 7, 7, 6, 9, 7])  # and begin with the same source, as others do
KINDS = pytest.mark.parametrize("config", [TirgConfig, DimConfig])


@pytest.fixture(scope="module")
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        0, 256, (2, BATCH, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8
    )
    return Batch(
        images=pixels[0],
        targets=pixels[1],
        tokens=TOKENS,
        token_mask=TOKENS > 0,
        image_ids=IDS,
        source_ids=SOURCES,
    )


def made(config: Any, **changes: Any) -> Any:
    torch.manual_seed(1)
    return config(**ENCODERS | changes).build(vocabulary=9).double().eval()


def losses_of(method: Method, batch: Batch, *names: str) -> list[Tensor]:
    method.begin_stage(names)
    method.on_step_start(0.5, seed=3)
    return list(method.objective(method.encode(batch)).values())


def touched(method: Method, loss: Tensor) -> set[str]:
    """The parts that learn from a loss, two names deep."""
    method.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    return {
        ".".join(name.split(".")[:2])
        for name, parameter in method.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }


TOWERS = {"image.backbone", "image.head", "text.backbone", "text.head"}


@pytest.mark.parametrize("fusion", ["tirg", "tirg_map", "concatenation", "sum", "image", "text"])
def test_queries_and_targets_by_formula(fusion: str, batch: Batch) -> None:
    method = made(TirgConfig, fusion=fusion)
    source, target = (method.image.backbone.local(one) for one in (batch.images, batch.targets))
    text = method.text(batch.tokens, batch.token_mask)
    whole = method.image.head(source.pooled)
    fused = {
        "sum": lambda: whole + text,
        "image": lambda: whole,
        "text": lambda: text,
        "tirg_map": lambda: method.image.head(method.fusion(source.rows, text)),
    }.get(fusion, lambda: method.fusion(whole, text))()
    found = method.encode(batch)
    torch.testing.assert_close(found.queries, fused / fused.norm(dim=1, keepdim=True))
    own = method.image.head(target.pooled)
    torch.testing.assert_close(found.targets, own / own.norm(dim=1, keepdim=True))
    assert method.local == (fusion == "tirg_map")
    assert not method.lower
    assert method.contents.composed


@KINDS
def test_the_losses_of_tirg(config: Any, batch: Batch) -> None:
    method = made(config, norm=3.0)
    found = method.encode(batch)
    logits = 9 * found.queries @ found.targets.T
    same = (IDS[:, None] == IDS) & ~torch.eye(BATCH, dtype=torch.bool)
    expected = F.cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(BATCH))
    classification, triplet = losses_of(method, batch, "batch_classification", "soft_triplet")
    torch.testing.assert_close(classification, expected)
    assert touched(method, classification) == TOWERS | {
        "fusion.gate", "fusion.residual", "fusion.scales", "classification.norm",
    }  # fmt: skip
    torch.testing.assert_close(method.monitors["norm"], torch.tensor([3.0]).double())
    assert 0 < triplet < 36
    # Both losses learn one norm.
    assert "classification.norm" in touched(method, triplet)
    assert "triplet.norm" not in dict(method.named_parameters())
    method.classification.norm.data.fill_(1e-9)
    (nothing,) = losses_of(method, batch, "soft_triplet")
    torch.testing.assert_close(nothing.item(), math.log(2))


def test_triplets_are_others_at_each_step(batch: Batch) -> None:
    method = made(TirgConfig)
    embeddings = method.encode(batch)
    values = []
    for seed in (1, 1, 2):
        method.on_step_start(0.0, seed)
        values.append(method.soft_triplet(embeddings).item())
    assert values[0] == values[1] != values[2]


@KINDS
def test_each_side_alone_is_embedded_as_beside_the_other(config: Any, batch: Batch) -> None:
    method = made(config)
    both = method.encode(batch)
    queries = method.encode(
        Batch(images=batch.images, tokens=batch.tokens, token_mask=batch.token_mask)
    )
    torch.testing.assert_close(queries.queries, both.queries)
    assert queries.targets is None
    targets = method.encode(Batch(targets=batch.targets))
    torch.testing.assert_close(targets.targets, both.targets)
    assert targets.queries is None


@pytest.mark.parametrize(
    ("config", "fusion"), [(TirgConfig, "tirg"), (TirgConfig, "tirg_map"), (DimConfig, "tirg")]
)
def test_cached_features_stand_in_for_images(config: Any, fusion: str, batch: Batch) -> None:
    method = made(config, fusion=fusion)
    source, target = (method.image.backbone.local(one) for one in (batch.images, batch.targets))
    cached = replace(
        batch,
        images=None,
        targets=None,
        image_features=source.rows if method.local else source.pooled,
        target_features=target.rows if method.local else target.pooled,
        target_lower=target.lower,
    )
    assert (cached.target_lower is not None) == method.lower
    ours, theirs = method.encode(cached), method.encode(batch)
    for field in fields(theirs):
        torch.testing.assert_close(getattr(ours, field.name), getattr(theirs, field.name))


def test_cached_features_stand_in_for_texts(batch: Batch) -> None:
    """As vectors, and as words with padding, whose mean they then are."""
    method = made(TirgConfig, text={"kind": "features", "features": 7})
    words = torch.randn(BATCH, 3, 7, dtype=torch.float64) * (TOKENS > 0)[..., None]
    means = torch.stack([rows[mask].mean(0) for rows, mask in zip(words, TOKENS > 0, strict=True)])
    both = [
        method.encode(Batch(images=batch.images, text_features=features)).queries
        for features in (words, means)
    ]
    torch.testing.assert_close(*both)


def sp(values: Tensor) -> Tensor:
    return (1 + values.exp()).log()


def jsd(scores: Tensor, others: Tensor) -> Tensor:
    """Minus DIM's estimate of scores (x items, y items, …): own pairs against `others`."""
    own = torch.eye(BATCH, dtype=torch.bool)
    return sp(-scores[own]).mean() + sp(scores[others]).mean() - 2 * math.log(2)


def info_nce_by_rows(scores: Tensor) -> Tensor:
    """Of vectors alone: each x among the y of other ids and its own."""
    total = 0
    for i, row in enumerate(scores):
        among = torch.stack([row[i], *row[IDS[i] != IDS]])
        total = total - math.log(len(among)) - row[i] + among.logsumexp(0)
    return total / BATCH


@pytest.mark.parametrize("text_with", ["target", "source", "difference"])
def test_dims_information_by_formula(text_with: str, batch: Batch) -> None:
    method = made(DimConfig, text_with=text_with, units=6, level=1)
    source, target = (method.image.backbone.local(one) for one in (batch.images, batch.targets))
    assert target.lower.shape == (BATCH, (SIZE // 4) ** 2, 32)
    wholes = [method.image.head(one.pooled) for one in (source, target)]
    whole, rows = {
        "target": (wholes[1], target.rows),
        "source": (wholes[0], source.rows),
        "difference": (wholes[1] - wholes[0], target.rows - source.rows),
    }[text_with]
    text = method.text(batch.tokens, batch.token_mask)
    fused = method.fusion(wholes[0], text)

    def scores(name: str, x: Tensor, y: Tensor) -> Tensor:
        x, y = method.information[name].critic(x, y)
        return torch.einsum("i...d,jd->ij...", x, y)

    text_image, fusion_target = losses_of(method, batch, "text_image", "fusion_target")
    of_targets, of_sources = (ids[:, None] != ids for ids in (IDS, SOURCES))
    others = {
        "target": of_targets,
        "source": of_sources,
        "difference": of_targets | of_sources,
    }[text_with]
    expected = jsd(scores("whole", whole, text), others) + jsd(scores("map", rows, text), others)
    torch.testing.assert_close(text_image, expected)
    torch.testing.assert_close(fusion_target, jsd(scores("lower", target.lower, fused), of_targets))
    if text_with == "target":
        learns = TOWERS | {"information.whole", "information.map"}
        assert touched(method, text_image) == learns
        learns = TOWERS | {"fusion.gate", "fusion.residual", "fusion.scales", "information.lower"}
        assert touched(method, fusion_target) == learns


def test_the_estimator_is_chosen(batch: Batch) -> None:
    method = made(DimConfig, estimator="info_nce", units=6)
    found = method.encode(batch)
    x, y = method.information["whole"].critic(found.images, found.texts)
    of_whole = method.information["whole"](found.images, found.texts, IDS)
    torch.testing.assert_close(of_whole, info_nce_by_rows(x @ y.T))
    values = {
        estimator: losses_of(made(DimConfig, estimator=estimator, units=6), batch, "fusion_target")[
            0
        ].item()
        for estimator in ("jsd", "dv", "nwj", "info_nce")
    }
    assert len(set(values.values())) == 4


@pytest.mark.parametrize("estimator", ["jsd", "dv", "nwj", "info_nce"])
def test_the_recipe_trains_by_every_estimator(estimator: str, batch: Batch) -> None:
    """Its optimiser and its critics as they are, on small encoders."""
    stage = read_recipe("dim", [], RECIPES).stages[0]
    torch.manual_seed(0)
    method = DimConfig(**ENCODERS, estimator=estimator).build(vocabulary=9).train()
    optimizer = torch.optim.SGD(
        [
            group | {"lr": stage.optimizer.lr * group["factor"]}
            for group in parameter_groups(method, stage)
        ],
        momentum=stage.optimizer.momentum,
    )
    method.begin_stage(tuple(stage.losses))
    for step in range(5):
        method.on_step_start(0.0, seed=step)
        losses = method.objective(method.encode(batch))
        for name in ("text_image", "fusion_target"):
            assert losses[name].abs() < 6, (name, step)
        optimizer.zero_grad()
        sum(stage.losses[name].weight * loss for name, loss in losses.items()).backward()
        optimizer.step()


def test_a_critic_of_both_sides_sees_the_next_other_text(batch: Batch) -> None:
    method = made(DimConfig, global_critic="concatenate", units=6)
    found = method.encode(batch)
    critic = method.information["whole"].critic
    other = found.texts[[1, 2, 3, 4, 5, 0]]
    expected = (
        sp(-critic(found.images, found.texts)).mean()
        + sp(critic(found.images, other)).mean()
        - 2 * math.log(2)
    )
    torch.testing.assert_close(
        method.information["whole"](found.images, found.texts, IDS), expected
    )


def test_the_prior_is_of_what_is_composed(batch: Batch) -> None:
    method = made(DimConfig, prior={"weight": 2.0, "penalty": 0.0})
    composed = method.compose(batch).fused.sigmoid()
    logits, _ = method.discriminator(composed)
    (loss,) = losses_of(method, batch, "prior")
    # Of the encoders, and of the discriminator on composed features and on samples.
    least = 2 * sp(-logits).mean() + sp(logits).mean()
    assert least < loss < least + 2
    assert "discriminator.weight0" in touched(method, loss)
    assert 0 <= method.monitors["prior_accuracy"] <= 1


def test_dim_reads_maps_and_needs_an_encoder() -> None:
    method = made(DimConfig)
    assert isinstance(method, Tirg)
    assert method.local
    assert method.lower
    with pytest.raises(ValidationError, match="timm"):
        DimConfig(**ENCODERS | {"image": {"kind": "features", "features": 4}})


@KINDS
def test_training_by_every_loss_reaches_every_part(config: Any, batch: Batch) -> None:
    method = made(config).train()
    loss = sum(losses_of(method, batch, *method.losses))
    method.zero_grad(set_to_none=True)
    loss.backward()
    missing = [name for name, p in method.named_parameters() if p.grad is None]
    assert not missing

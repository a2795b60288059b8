from typing import Any

import pytest
import torch

from xmodal.data.batch import Batch
from xmodal.methods.clip import Clip, ClipConfig
from xmodal.models.images.timm_model import TimmConfig
from xmodal.models.texts.transformer import TransformerConfig

IMAGE = TimmConfig(name="test_resnet", size=32)
TEXT = TransformerConfig(width=16, layers=2, heads=2)


def clip(*, bf16: bool = False, **given: Any) -> Clip:
    torch.manual_seed(0)
    config = ClipConfig(image=IMAGE, text=TEXT, embedding=8, **given)
    method: Clip = config.build(vocabulary=40, bf16=bf16)
    return method


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(6, 5, dtype=torch.bool)
    mask[2:, 3:] = False
    return Batch(
        images=torch.randint(0, 256, (6, 3, 32, 32), generator=generator, dtype=torch.uint8),
        tokens=torch.randint(0, 40, (6, 5), generator=generator),
        token_mask=mask,
        image_ids=torch.arange(6),
    )


def test_a_batch_becomes_a_loss_that_reaches_every_weight(batch: Batch) -> None:
    method = clip()
    losses = method.objective(method.encode(batch))
    assert losses.keys() == {"contrastive"}
    losses["contrastive"].backward()
    untouched = [name for name, p in method.named_parameters() if p.grad is None]
    assert not untouched
    assert method.loss.log_scale.grad
    torch.testing.assert_close(method.monitors["temperature"].item(), 0.07)


@pytest.mark.parametrize(
    ("kind", "monitors"),
    [
        ("sigmoid", {"temperature", "bias"}),
        ("margin", set()),
        ("triplet", {"collapse"}),
        ("circle", set()),
        ("multi_similarity", set()),
        ("smooth_ap", {"positives"}),
        ("soft_relevance", {"temperature"}),
        ("supervised_contrastive", set()),
    ],
)
def test_an_objective_of_another_kind_is_logged_by_its_name(
    batch: Batch, kind: str, monitors: set[str]
) -> None:
    method = clip(objective={"kind": kind})
    losses = method.objective(method.encode(batch))
    assert losses.keys() == {kind}
    losses[kind].backward()
    assert all(p.grad is not None for p in method.parameters())
    assert method.monitors.keys() == monitors


def test_the_objective_follows_the_progress_of_training(batch: Batch) -> None:
    method = clip(objective={"kind": "triplet", "negatives": "hardest", "warmup": 0.5})
    losses = {}
    for progress in (0.0, 0.25, 0.5, 1.0):
        method.on_step_start(progress, 0)
        losses[progress] = method.objective(method.encode(batch))["triplet"].item()
    assert losses[0.0] > losses[0.25] > losses[0.5] == losses[1.0]


@torch.no_grad()
def test_embeddings_are_of_length_one_and_each_side_stands_alone(batch: Batch) -> None:
    method = clip().eval()
    both = method.encode(batch)
    images = method.encode(Batch(images=batch.images))
    texts = method.encode(Batch(tokens=batch.tokens, token_mask=batch.token_mask))
    assert images.texts is None
    assert texts.images is None
    assert torch.equal(images.images, both.images)
    assert torch.equal(texts.texts, both.texts)
    for side in (both.images, both.texts):
        assert side.shape == (6, 8)
        torch.testing.assert_close(side.norm(dim=1), torch.ones(6))


@torch.no_grad()
def test_features_stand_in_for_what_they_were_made_of(batch: Batch) -> None:
    method = clip().eval()
    cached = Batch(
        image_features=method.image.backbone(batch.images),
        text_features=method.text.backbone(batch.tokens, batch.token_mask),
    )
    expected, got = method.encode(batch), method.encode(cached)
    assert torch.equal(got.images, expected.images)
    assert torch.equal(got.texts, expected.texts)


def test_bf16_computes_in_half_and_stays_near(batch: Batch) -> None:
    single, half = clip().eval(), clip(bf16=True).eval()
    seen: set[torch.dtype] = set()
    for tower in (half.image, half.text):
        tower.head.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    got, expected = half.encode(batch), single.encode(batch)
    assert seen == {torch.bfloat16}
    assert got.images.dtype == got.texts.dtype == torch.float32
    assert (torch.cosine_similarity(got.images, expected.images) > 0.995).all()
    assert (torch.cosine_similarity(got.texts, expected.texts) > 0.995).all()
    half.objective(got)["contrastive"].backward()
    assert {p.grad.dtype for p in half.parameters()} == {torch.float32}


def test_the_score_is_the_cosine() -> None:
    queries, gallery = torch.eye(3)[:2], torch.eye(3)
    assert clip().score(queries, gallery).tolist() == [[1, 0, 0], [0, 1, 0]]

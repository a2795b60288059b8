"""Texts beside the samples of a batch, as negatives of images."""

from dataclasses import replace

import pytest
import torch

from tests.methods.test_clip import IMAGE, TEXT
from xmodal.data.batch import Batch, join
from xmodal.methods.clip import ClipConfig
from xmodal.methods.towers import TwoTowers, extra_negatives
from xmodal.methods.vsepp import VseppConfig
from xmodal.objectives.pairwise.tiles import NO_ROWS

SAMPLES, TEXTS, LENGTH = 6, 2, 5
CAPTION, OTHERS_CAPTION, FALSE = 100, 103, 7  # ids of texts


def method_of(kind: str, **given: object) -> TwoTowers:
    torch.manual_seed(0)
    config = {"clip": ClipConfig, "vsepp": VseppConfig}[kind]
    method: TwoTowers = config(image=IMAGE, text=TEXT, embedding=8, **given).build(vocabulary=40)
    return method.eval()


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((SAMPLES, TEXTS), FALSE)
    ids[0, 1], ids[1, 0] = CAPTION, OTHERS_CAPTION
    lengths = torch.randint(1, LENGTH + 1, (SAMPLES, TEXTS, 1), generator=generator)
    return Batch(
        images=torch.randint(0, 256, (SAMPLES, 3, 32, 32), generator=generator).byte(),
        tokens=torch.randint(0, 40, (SAMPLES, LENGTH), generator=generator),
        token_mask=torch.ones(SAMPLES, LENGTH, dtype=torch.bool),
        extra_tokens=torch.randint(0, 40, (SAMPLES, TEXTS, LENGTH), generator=generator),
        extra_token_mask=torch.arange(LENGTH) < lengths,
        extra_images=torch.randint(0, 256, (SAMPLES, 1, 3, 32, 32), generator=generator).byte(),
        extra_image_ids=torch.tensor([[2], [50], [51], [52], [53], [54]]),
        image_ids=torch.arange(SAMPLES),
        text_ids=torch.arange(SAMPLES) + CAPTION,
        extra_text_ids=ids,
        extra_text_origins=torch.full_like(ids, FALSE).index_fill(0, torch.tensor(5), 4),
    )


def test_a_caption_of_the_batch_is_no_extra_negative(batch: Batch) -> None:
    embeddings = method_of("clip").encode(batch)
    texts, _ = extra_negatives(embeddings, "all")
    ids = texts.ids.view(SAMPLES, TEXTS)
    assert (ids == NO_ROWS).nonzero().tolist() == [[0, 1], [1, 0]]
    assert ids[5].tolist() == [4, 4]  # other captions of an image of the batch
    assert texts.columns.shape == (SAMPLES * TEXTS, 8)


def test_an_image_of_the_batch_is_no_extra_negative(batch: Batch) -> None:
    _, images = extra_negatives(method_of("clip").encode(batch), "all")
    assert images.side == "x"
    assert images.ids.tolist() == [NO_ROWS, 50, 51, 52, 53, 54]


def test_texts_are_embedded_as_captions_are(batch: Batch) -> None:
    method = method_of("clip")
    both = method.encode(batch)
    alone = method.encode(
        Batch(tokens=batch.extra_tokens[:, 1], token_mask=batch.extra_token_mask[:, 1])
    )
    torch.testing.assert_close(both.extra_texts[:, 1], alone.texts)
    images = method.encode(Batch(images=batch.extra_images[:, 0])).images
    torch.testing.assert_close(both.extra_images[:, 0], images)


@pytest.mark.parametrize("kind", ["clip", "vsepp"])
def test_by_all_rows_or_by_their_own_the_loss_is_higher(batch: Batch, kind: str) -> None:
    without = replace(batch, extra_text_ids=None, extra_image_ids=None)
    losses = {}
    for seen in ("all", "own"):
        method = method_of(kind, extra_negatives=seen)
        name = next(iter(method.losses))
        method.begin_stage((name,))
        for parts in (batch, without):
            losses[seen, parts is batch] = method.objective(method.encode(parts))[name].item()
    assert losses["all", False] == losses["own", False]
    assert losses["all", True] > losses["own", True] > losses["own", False]


def test_micro_batches_joined_give_the_same_loss(batch: Batch) -> None:
    method = method_of("clip")
    whole = method.objective(method.encode(batch))["contrastive"]
    parts = [method.encode(part) for part in batch.cut(2)]
    torch.testing.assert_close(method.objective(join(parts))["contrastive"], whole)

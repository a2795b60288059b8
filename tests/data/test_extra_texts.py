"""Texts beside a sample that are false of its image: drawn alike on any ranks and workers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.shard_sets import described, encode, plain, write_shards
from tests.training_sets import BATCH, assert_same, batches, captions_of, npy, training_set
from xmodal.data.batch import Batch, join
from xmodal.data.config import NegativesConfig
from xmodal.data.manifest import Manifest
from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.data.training_set import TrainingSet

CAPTIONS = {
    "rules": ["a red cup on a blue box", "a cup"],  # nothing is to be written of the second
    "stored": ["a green hat", "a hat"],
}
STORED = [["a green cat", "a hat"], ["a cap", "a cat", "a bat"]]
TEXTS = [text for texts in (*CAPTIONS.values(), *STORED) for text in texts]
TOKENIZER = train_tokenizer(TEXTS, 24, vocabulary=300)
RULES = {"a blue cup on a red box", "a red box on a blue cup"}
FALSE = {
    "a red cup on a blue box": RULES,
    "a cup": set(),
    "a green hat": {"a green cat"},  # the other is a caption of the image
    "a hat": {"a cap", "a cat", "a bat"},
}


@pytest.fixture
def shards(tmp_path: Path) -> Manifest:
    samples = {}
    for number in range(31):
        kind = ("rules", "stored")[number % 2]
        false = {"false_captions": STORED} if kind == "stored" else {}
        record = described(CAPTIONS[kind], image_id=f"i{number}", **false)
        samples[f"{number:05d}"] = {"png": encode(plain(number)), "json": record}
    return write_shards(tmp_path / "shards", [samples])


def with_texts(shards: Manifest, count: int = 2) -> TrainingSet:
    return training_set(shards, tokenizer=TOKENIZER, negatives=NegativesConfig(texts=count))


def extra_texts_of(batch: Batch) -> list[list[str]]:
    tokens, mask, _ = batch.extra_texts
    rows = [row[kept].tolist() for row, kept in zip(tokens, mask, strict=True)]
    texts = [text.strip() for text in TOKENIZER.tokenizer.decode_batch(rows)]
    count = batch.extra_tokens.shape[1]
    return [texts[at : at + count] for at in range(0, len(texts), count)]


def test_texts_are_stored_ones_of_the_caption_or_written_and_its_own_fills_up(
    shards: Manifest,
) -> None:
    for batch in batches(with_texts(shards), range(4)):
        for row, (caption, texts) in enumerate(
            zip(captions_of(batch, TOKENIZER), extra_texts_of(batch), strict=True)
        ):
            false = [text for text in texts if text != caption]
            assert set(false) <= FALSE[caption]
            assert len(set(false)) == len(false) == min(2, len(FALSE[caption]))
            is_caption = batch.extra_text_ids[row] == batch.text_ids[row]
            assert is_caption.tolist() == [text == caption for text in texts]


@pytest.mark.parametrize("workers", [0, 2])
def test_any_ranks_and_workers_draw_the_same(shards: Manifest, workers: int) -> None:
    whole = batches(with_texts(shards), range(3))
    parts = [
        batches(with_texts(shards), range(3), rank=rank, ranks=2, workers=workers)
        for rank in range(2)
    ]
    for step, batch in enumerate(whole):
        for name in ("text_ids", "extra_text_ids"):
            dealt = torch.stack([getattr(part[step], name) for part in parts], 1).flatten(0, 1)
            assert dealt.equal(getattr(batch, name)), name
    later = batches(with_texts(shards), range(2, 3))
    assert_same(later[0], whole[2])


def test_every_text_is_drawn(shards: Manifest) -> None:
    seen = {
        text
        for batch in batches(with_texts(shards, 1), range(12))
        for texts in extra_texts_of(batch)
        for text in texts
    }
    assert seen >= {"a cap", "a cat", "a bat", "a green cat", *RULES}


def test_batches_are_cut_and_joined_with_them(shards: Manifest) -> None:
    (batch,) = batches(with_texts(shards), range(1))
    batch = batch.to(torch.device("cpu"))
    assert batch.extra_token_lengths.equal(batch.extra_token_mask.sum(2))
    parts = batch.cut(BATCH // 3)
    assert [len(part.extra_tokens) for part in parts] == [BATCH // 3] * 3
    assert_same(join(parts), batch)


def test_beside_cached_features_they_are_of_the_caption_that_was_drawn(tmp_path: Path) -> None:
    captions = CAPTIONS["rules"]
    features = np.arange(2, dtype=np.float32)[:, None].repeat(4, 1)
    members = {
        f"{number:05d}": {
            "png": encode(plain(number)),
            "text.npy": npy(features),
            "json": described(captions, image_id=f"i{number}"),
        }
        for number in range(31)
    }
    dataset = with_texts(write_shards(tmp_path / "features", [members]))
    for batch in batches(dataset, range(2)):
        assert batch.tokens is None
        drawn = [captions[int(row[0])] for row in batch.text_features]
        for caption, texts in zip(drawn, extra_texts_of(batch), strict=True):
            assert set(texts) == (FALSE[caption] or {caption})

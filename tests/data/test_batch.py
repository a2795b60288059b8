"""Batches cut into micro-batches and joined again."""

from dataclasses import fields

import torch
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data.batch import Batch, Fault, join

SHAPES = {
    "images": (3, 2, 2),
    "second_images": (3, 2, 2),
    "targets": (3, 2, 2),
    "tokens": (4,),
    "token_mask": (4,),
    "token_lengths": (),
    "second_tokens": (4,),
    "second_token_mask": (4,),
    "second_token_lengths": (),
    "text_dropped": (2,),
    "draws": (3,),
    "image_features": (5,),
    "target_features": (5,),
    "target_lower": (4, 2),
    "text_features": (6,),
    "second_text_features": (6,),
    "image_ids": (),
    "source_ids": (),
    "sample_numbers": (),
    "labels": (),
    "teacher_images": (5,),
    "teacher_texts": (5,),
    "extra_images": (2, 3, 2, 2),
    "extra_image_features": (2, 5),
    "extra_image_ids": (2,),
    "extra_tokens": (2, 4),
    "extra_token_mask": (2, 4),
    "extra_token_lengths": (2,),
    "extra_text_ids": (2,),
    "extra_text_origins": (2,),
    "text_ids": (),
}
DTYPES = dict.fromkeys(("images", "second_images", "targets"), torch.uint8)
DTYPES |= dict.fromkeys(("token_mask", "second_token_mask", "text_dropped"), torch.bool)
DTYPES |= dict.fromkeys(
    ("tokens", "second_tokens", "image_ids", "source_ids", "sample_numbers", "labels"), torch.int64
)
DTYPES |= {"extra_images": torch.uint8, "extra_token_mask": torch.bool, "text_ids": torch.int64}
DTYPES |= dict.fromkeys(
    (
        "extra_tokens",
        "extra_token_lengths",
        "extra_text_ids",
        "extra_text_origins",
        "extra_image_ids",
    ),
    torch.int64,
)
DTYPES |= dict.fromkeys(("token_lengths", "second_token_lengths"), torch.int64)


def test_every_tensor_of_a_batch_is_tried() -> None:
    assert set(SHAPES) == {field.name for field in fields(Batch)} - {"faults", "warnings"}


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Batches of 1 to 40 samples with any of the fields, and any faults."""
    rows = draw(st.integers(1, 40))
    names = draw(st.sets(st.sampled_from(sorted(SHAPES)), min_size=1))
    fields = {
        name: torch.randint(0, 2, (rows, *SHAPES[name])).to(DTYPES.get(name, torch.float32))
        for name in names
    }
    keys = draw(st.lists(st.text(max_size=3), max_size=3))
    return Batch(**fields, faults=tuple(Fault("shard", key, "cause") for key in keys))


@given(batches(), st.integers(1, 50))
def test_a_batch_cut_and_joined_is_itself(batch: Batch, size: int) -> None:
    parts = batch.cut(size)
    rows = {
        name: len(value)
        for name, value in vars(batch).items()
        if name in SHAPES and value is not None
    }
    for name, number in rows.items():
        lengths = [len(getattr(part, name)) for part in parts]
        assert sum(lengths) == number
        assert set(lengths[:-1]) <= {size}
        assert 0 < lengths[-1] <= size
    joined = join(parts)
    assert type(joined) is Batch
    assert joined.faults == batch.faults
    for name in SHAPES:
        ours, given = getattr(joined, name), getattr(batch, name)
        assert (ours is None) == (given is None)
        if given is not None:
            assert ours.dtype == given.dtype
            assert torch.equal(ours, given)


def test_parts_share_the_memory_of_the_batch() -> None:
    batch = Batch(images=torch.zeros(8, 3, 4, 4, dtype=torch.uint8))
    batch.cut(3)[1].images.fill_(1)
    assert batch.images.float().mean(dim=(1, 2, 3)).tolist() == [0, 0, 0, 1, 1, 1, 0, 0]


def test_lengths_of_texts_stay_on_the_host() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    batch = Batch(token_mask=mask).to(torch.device("meta"))
    assert batch.token_mask is not None
    assert batch.token_mask.is_meta
    assert batch.token_lengths is not None
    assert batch.token_lengths.tolist() == [2, 1]
    (_, second) = batch.to(torch.device("meta")).cut(1)
    assert second.token_lengths is not None
    assert second.token_lengths.tolist() == [1]

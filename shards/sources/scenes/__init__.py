"""Drawn scenes as a source of shards."""

import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

from pydantic import Field

from shards.source import Composed, Item, Reads, SourceConfig, Split, Splits
from shards.sources.scenes.change import draw_change
from shards.sources.scenes.draw import draw
from shards.sources.scenes.grammar import Claim, own_claims, put_into_words
from shards.sources.scenes.swap import draw_swap, false_wordings
from shards.sources.scenes.world import COLOURS, SHAPES, WHOLE, Scene, Variety, draw_scene
from xmodal.errors import UserError

LAYOUT = """
Nothing to prepare: the scenes are generated. No scene of train or composed_train, however it is
drawn, is among those of the other splits.

train, val                     images with five captions each that are true of them, and the
                               shapes in them as labels; relevance.json of val names for each
                               caption all the scenes that it is true of
swapped                        images with a caption and, as its false caption, the same words with
                               the colours or sizes of two shapes swapped; `category` says which
composed_train, composed_val   a scene, one change to it in words, and the scene so changed
composed_gallery               what composed_val is searched in: its sources and targets, and of
                               each source a scene that is changed otherwise

The options are the seed, each split's number of samples, and false_captions=true: captions of
train then have beside them, as false captions, the same words with a colour, a size or a shape of
two things swapped. colours=N, shapes=N and things=2 make simpler scenes of train, val and swapped:
of the first N of the eight colours and shapes, and of two things at most. captions=N keeps the
first N of the five captions of train and val: the first two say everything, the third how two
things lie.
"""


class ScenesConfig(SourceConfig):
    """Drawn scenes of two or three objects, generated: captions, classes and composed queries."""

    kind: Literal["scenes"] = "scenes"
    seed: int = 0
    train: int = 20_000
    val: int = 500
    swapped: int = 500
    composed_train: int = 20_000
    composed_val: int = 500
    false_captions: bool = False
    colours: int = Field(len(COLOURS), ge=2, le=len(COLOURS))
    shapes: int = Field(len(SHAPES), ge=2, le=len(SHAPES))
    things: int = Field(3, ge=2, le=3)
    captions: int = Field(5, ge=1, le=5)
    layout: ClassVar[str] = LAYOUT
    reads: ClassVar[Reads] = "nothing"
    builds: ClassVar[str] = "read"


def read(
    *,
    seed: int = 0,
    train: int = 20_000,
    val: int = 500,
    swapped: int = 500,
    composed_train: int = 20_000,
    composed_val: int = 500,
    false_captions: bool = False,
    colours: int = len(COLOURS),
    shapes: int = len(SHAPES),
    things: int = 3,
    captions: int = 5,
) -> Splits:
    """The splits by name; raises `UserError` for a split of no samples."""
    counts = {"composed_train": composed_train, "composed_val": composed_val}
    plain = {"train": train, "val": val, "swapped": swapped}
    for name, count in {**plain, **counts}.items():
        if count < 1:
            raise UserError(f"{name}={count}: a split of scenes has at least one")
    variety = Variety(colours, shapes, things, captions)
    return {
        "train": partial(_train, seed, train, variety, false_captions=false_captions),
        "val": lambda: _with_relevance(captioned(seed, "val", val, variety)),
        "swapped": partial(_swapped, seed, swapped, variety),
        **{name: partial(_composed, seed, name, count) for name, count in counts.items()},
        "composed_gallery": partial(_gallery, seed, composed_val),
    }


@dataclass(frozen=True)
class Captioned:
    """A scene of a split, the claims made of it, and their wording."""

    image_id: str
    scene: Scene
    claims: Sequence[Claim]
    captions: Sequence[str]

    def item(self) -> Item:
        labels = sorted({thing.shape for thing in self.scene.things})
        return Item(self.image_id, partial(jpeg, self.scene), self.captions, labels)

    def item_with_false(self) -> Item:
        """Return the sample with what is false of it beside each caption."""
        false = [
            list(false_wordings(claim, sentence, self.scene))
            for claim, sentence in zip(self.claims, self.captions, strict=True)
        ]
        return replace(self.item(), false_captions=false)


@dataclass(frozen=True)
class Query:
    """A scene, a change to it, the scene so changed, and one that is changed otherwise."""

    source: Scene
    modification: str
    target: Scene
    other: Scene


def jpeg(scene: Scene) -> bytes:
    """The drawn scene as a JPEG file, without loss of colour resolution."""
    file = io.BytesIO()
    draw(scene).save(file, "JPEG", quality=90, subsampling=0)
    return file.getvalue()


def captioned(seed: int, split: str, count: int, variety: Variety = WHOLE) -> list[Captioned]:
    """The first `count` scenes of a plain split with their captions."""
    held_out = split != "train"
    return [
        _caption(f"{split}-{index:06}", _draw_where(held_out, rng, variety), rng, variety)
        for index, rng in enumerate(_randoms(seed, split, count))
    ]


def relevance(images: Sequence[Captioned]) -> dict[str, list[list[str]]]:
    """For each image and each of its captions, the ids of the images that it is true of."""
    return {
        image.image_id: [
            [other.image_id for other in images if claim.holds(other.scene)]
            for claim in image.claims
        ]
        for image in images
    }


def queries(seed: int, split: str, count: int) -> list[Query]:
    """The first `count` queries of a composed split."""
    held_out = split != "composed_train"
    return [_draw_query(held_out, rng) for rng in _randoms(seed, split, count)]


def _randoms(seed: int, split: str, count: int) -> Iterator[random.Random]:
    # A generator of its own for each sample: the first thousand are the same in a set of any size.
    return (random.Random(f"{seed}/{split}/{index}") for index in range(count))


def _draw_where(held_out: bool, rng: random.Random, variety: Variety = WHOLE) -> Scene:
    while (scene := draw_scene(rng, variety)).is_held_out != held_out:
        pass
    return scene


def _draw_query(held_out: bool, rng: random.Random) -> Query:
    # The scene is drawn anew with the changes, for it may be that no change leads where it must.
    while True:
        source = _draw_where(held_out, rng)
        change = draw_change(source, rng)
        target, other = change.apply(source), draw_change(source, rng).apply(source)
        if target.is_held_out == other.is_held_out == held_out and target != other:
            return Query(source, change.put_into_words(rng), target, other)


def _caption(
    image_id: str, scene: Scene, rng: random.Random, variety: Variety = WHOLE
) -> Captioned:
    claims = own_claims(scene, rng)[: variety.captions]
    return Captioned(image_id, scene, claims, [put_into_words(claim, rng) for claim in claims])


def _train(seed: int, count: int, variety: Variety, *, false_captions: bool) -> Split:
    images = captioned(seed, "train", count, variety)
    return Split([one.item_with_false() if false_captions else one.item() for one in images])


def _with_relevance(images: Sequence[Captioned]) -> Split:
    return Split([image.item() for image in images], relevance(images))


def _swapped(seed: int, count: int, variety: Variety) -> Split:
    rngs = enumerate(_randoms(seed, "swapped", count))
    return Split([_swapped_item(f"swapped-{index:06}", rng, variety) for index, rng in rngs])


def _swapped_item(image_id: str, rng: random.Random, variety: Variety) -> Item:
    swap = None
    while swap is None:
        scene = _draw_where(True, rng, variety)
        swap = draw_swap(scene, rng)
    caption, false = swap.put_into_words(rng)
    return Item(
        image_id,
        partial(jpeg, scene),
        [caption],
        false_captions=[[false]],
        details={"category": swap.attribute},
    )


def _composed(seed: int, split: str, count: int) -> Split:
    drawn = queries(seed, split, count)
    ids = _image_ids(split, drawn)
    return Split(
        [
            Composed(
                source_id=ids[query.source],
                source=partial(jpeg, query.source),
                modification=query.modification,
                target_id=ids[query.target],
                target=partial(jpeg, query.target),
            )
            for query in drawn
        ]
    )


def _gallery(seed: int, count: int) -> Split:
    ids = _image_ids("composed_val", queries(seed, "composed_val", count))
    rngs = _randoms(seed, "composed_gallery", len(ids))
    return Split(
        [
            _caption(image_id, scene, rng).item()
            for (scene, image_id), rng in zip(ids.items(), rngs, strict=True)
        ]
    )


def _image_ids(split: str, drawn: Sequence[Query]) -> dict[Scene, str]:
    """One id for all images of the same meaning, so that a query's target is one of the gallery."""
    ids: dict[Scene, str] = {}
    for index, query in enumerate(drawn):
        for part in ("source", "target", "other"):
            ids.setdefault(getattr(query, part), f"{split}-{index:06}-{part}")
    return ids

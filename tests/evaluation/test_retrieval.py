"""A whole evaluation: shards in, metrics of all protocols and what is shown of them out."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.processes import on_ranks
from tests.shard_sets import Members, described, write_shards
from tests.training_sets import TOKENIZER, npy
from xmodal.data.batch import Batch, BatchSpec
from xmodal.data.manifest import read_manifest
from xmodal.data.transforms import ImageTransform
from xmodal.errors import UserError
from xmodal.evaluation.config import EvaluationConfig
from xmodal.evaluation.embedding import embed, in_evaluation
from xmodal.evaluation.per_query import PerQuery
from xmodal.evaluation.protocols import coco_1k_5fold
from xmodal.evaluation.protocols.coco_1k_5fold import Coco1kFiveFold
from xmodal.evaluation.protocols.coco_5k import Coco5k
from xmodal.evaluation.protocols.flickr_1k import Flickr1k
from xmodal.evaluation.protocols.registry import fitting, metric_names, needs_training_set
from xmodal.evaluation.protocols.sugarcrepe import CATEGORIES
from xmodal.evaluation.report.examples import load_examples
from xmodal.evaluation.retrieval import (
    Retrieval,
    evaluate_retrieval,
    evaluation_set,
    sets_to_measure,
)
from xmodal.evaluation.retrieved import RetrievedExample
from xmodal.methods.method import Loss, Method
from xmodal.methods.scores import Score
from xmodal.methods.towers import Embeddings
from xmodal.models.features import Features

CPU = torch.device("cpu")
IMAGES, DIM = 20, 6
WORDS = ["red", "green", "blue"]  # the classes


class Bags(Method):
    """Images are features; texts the mean of their tokens, each of which is a random vector."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.randn(TOKENIZER.vocabulary, DIM, generator=torch.Generator().manual_seed(0))
        self.words = nn.Embedding.from_pretrained(table)
        self.encoded = 0  # rows

    @property
    def losses(self) -> dict[str, Loss]:
        return {}

    def encode(self, batch: Batch) -> Embeddings:
        images, texts = batch.image_features, batch.text_features
        if batch.tokens is not None:
            texts = (self.words(batch.tokens) * batch.token_mask[..., None]).sum(1)
        self.encoded += sum(len(side) for side in (images, texts) if side is not None)
        sides = [None if s is None else F.normalize(s, dim=-1) for s in (images, texts)]
        return Embeddings(*sides, batch.image_ids)


class Learned(Bags):
    """A score of its own, which dropout would spoil."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    @property
    def score(self) -> Score:
        return Score(lambda queries, gallery: self.score_pairs(queries[:, None], gallery))

    def score_pairs(self, images: Tensor, texts: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return (self.dropout(images) * texts.roll(1, -1)).sum(-1)

    @property
    def shortlist(self) -> Score | None:
        return super().score


class TwoSenses(Bags):
    def encode(self, batch: Batch) -> Embeddings:
        found = super().encode(batch)
        sides = [
            None if s is None else torch.stack([s, -s], 1) for s in (found.images, found.texts)
        ]
        return Embeddings(*sides, batch.image_ids)

    def score(self, queries: Tensor, gallery: Tensor) -> Tensor:
        return torch.einsum("akd,bld->abkl", queries, gallery).amax((2, 3))


def samples(count: int = IMAGES, *, labels: bool = True, texts: bool = False) -> dict[str, Members]:
    """Five captions an image, or features of two texts; every fifth image is of two classes.

    The first caption of an image is false of another one, and the two are a group.
    """
    features = np.random.default_rng(0).normal(size=(count, 3, DIM)).astype(np.float32)
    found: dict[str, Members] = {}
    for n in range(count):
        classes = [WORDS[n % 3], *([WORDS[(n + 1) % 3]] if n % 5 == 0 else [])]
        record: dict[str, object] = {"image_id": f"i{n}"}
        record |= {"labels": classes} if labels else {}
        words = [f"{n} {WORDS[n % 3]} {c}" for c in range(5)]
        record |= {} if texts else {"zh": [f"{n} {n % 4}"], "url": "https://…"}
        if not texts:
            record |= {"false_captions": [[f"{n ^ 1} {WORDS[(n ^ 1) % 3]} 0"], [], [], [], []]}
            record |= {"category": CATEGORIES[n // 2 % 7], "group": f"g{n // 2}"}
        found[f"{n:03d}"] = {
            "image.npy": npy(features[n, 0]),
            "json": described([] if texts else words, **record),
            **({"text.npy": npy(features[n, 1:])} if texts else {}),
        }
    return found


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(tmp_path, [dict(list(samples().items())[:7]), dict(list(samples().items())[7:])])
    return tmp_path


def measured(
    method: Method, shards: Path, *protocols: str, relevance: object = None, **config: object
) -> Retrieval:
    return evaluate_retrieval(
        method,
        evaluation_set(read_manifest(shards), ImageTransform(8), TOKENIZER),
        relevance,
        EvaluationConfig(batch_size=3, **config),
        protocols=protocols or None,
        device=CPU,
        workers=0,
        max_bad_share=0.2,
    )


def metrics_of(results: list[PerQuery]) -> dict[str, float]:
    """Return the metrics that results of queries tell, by their names."""
    metrics = {}
    for one in results:
        assert len({len(one.numbers), len(one.captions)}) == 1
        for name, values in one.values.items():
            metrics[f"{one.name}/{name}"] = float(values.mean())
        for name, ranks in one.ranks.items():
            for k in (10,) if "/dress" in one.name or "/shirt" in one.name else (1, 5, 10):
                metrics[f"{one.name}/{name}@{k}"] = 100 * float((ranks < k).double().mean())
    return metrics


@pytest.fixture
def _small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    for split in (Flickr1k, Coco5k, Coco1kFiveFold):
        monkeypatch.setattr(split, "images", IMAGES)
    monkeypatch.setattr(coco_1k_5fold, "FOLD", 4)


WITHOUT_A_SCORE = ("gap", "class-normalised", "visual", "visual-graded")
# Those that are fitted on another set are measured in test_classification.py.
OF_PAIRS = [one for one in fitting(Bags.contents) if not needs_training_set([one])]
RELEVANCE = {f"i{n}": [[f"i{n}", f"i{(n + 3) % IMAGES}"]] * 5 for n in range(IMAGES)}
LESS_IS_BETTER = (
    r"_chance$|/median_rank$|/num_\w+$|/queries(_skipped)?$|/images_skipped$|^gap|/groups_skipped$"
)
OF_A_CATEGORY = (  # which sets have others of
    r"(false-captions|aro|winoground)(-by-distance)?/\w+/|by-language(-by-distance)?/(captions|zh)/"
)


@pytest.mark.usefixtures("_small_splits")
@pytest.mark.parametrize("kind", [Bags, Learned])
def test_all_protocols_from_one_pass_are_what_each_is_alone(
    kind: type[Method], shards: Path
) -> None:
    method = kind()
    both = measured(method, shards, *OF_PAIRS, relevance=RELEVANCE).metrics
    # Captions with false ones are encoded again beside these, once for all protocols; and texts
    # of another language.
    assert method.encoded == IMAGES + 5 * IMAGES + len(WORDS) + IMAGES + IMAGES
    of_each = {name: measured(method, shards, name, relevance=RELEVANCE) for name in OF_PAIRS}
    alone = {name: value for found in of_each.values() for name, value in found.metrics.items()}
    assert both == alone
    learned = kind is Learned
    for protocol in OF_PAIRS:
        named = {name.split("/")[0] for name in of_each[protocol].metrics}
        both_ways = learned and protocol not in WITHOUT_A_SCORE
        assert named == {protocol} | ({f"{protocol}-by-distance"} if both_ways else set())
        assert all(isinstance(value, float) for value in of_each[protocol].metrics.values())
    # What is to be known before there is data: the names of all of which more is better.
    better = {name for name in both if not re.search(LESS_IS_BETTER, name)}
    better -= {name for name in both if re.match(OF_A_CATEGORY, name)}
    assert {name for name in better if "-by-distance/" not in name} == set(
        metric_names(OF_PAIRS, method)
    )


@pytest.mark.usefixtures("_small_splits")
def test_the_results_of_queries_are_those_that_metrics_are_means_of(shards: Path) -> None:
    found = measured(Learned(), shards, *OF_PAIRS, relevance=RELEVANCE)
    explained = metrics_of(found.per_query)
    assert explained == {name: pytest.approx(found.metrics[name]) for name in explained}
    assert {"class/image_to_text/map", "class-normalised/text_to_image/map@50"} <= explained.keys()
    assert {"zero-shot/top1", "zero-shot-by-distance/top5"} <= explained.keys()
    # Recalls of six protocols in two directions, accuracies, and the scores of groups; twice.
    assert len(explained) > 2 * (5 * 2 * 3 + 3 + 7 + 3)


@pytest.mark.parametrize("protocol", ["all-captions", "class", "zero-shot"])
def test_by_distance_is_the_cheap_score_alone(protocol: str, shards: Path) -> None:
    plain = measured(Bags(), shards, protocol).metrics
    for all_pairs in (0, 4_000_000):
        metrics = measured(Learned(), shards, protocol, all_pairs=all_pairs, shortlist=2).metrics
        cheap = {k: v for k, v in metrics.items() if k.startswith(f"{protocol}-by-distance/")}
        assert cheap == {k.replace("/", "-by-distance/", 1): v for k, v in plain.items()}


def test_a_learned_score_is_of_all_pairs_or_of_a_shortlist(shards: Path) -> None:
    asked = "class", "all-captions"
    of_all = measured(Learned(), shards, *asked, all_pairs=IMAGES * 5 * IMAGES)
    whole_shortlist = measured(Learned(), shards, *asked, all_pairs=0, shortlist=1000)
    short = measured(Learned(), shards, *asked, all_pairs=IMAGES * 5 * IMAGES - 1, shortlist=3)
    assert whole_shortlist.metrics == pytest.approx(of_all.metrics)
    assert short.metrics["class/map"] != pytest.approx(of_all.metrics["class/map"])
    assert [shown(find) for find in whole_shortlist.examples] == [
        shown(find) for find in of_all.examples
    ]
    assert {len(find.hits) for find in short.examples} == {3}


def shown(find: RetrievedExample) -> tuple[object, ...]:
    return find.query, [part for part, _, _ in find.hits], find.rank


def test_a_method_scores_as_it_does_when_it_is_not_trained(shards: Path) -> None:
    method = Learned().train()
    method.words.eval()
    first, second = measured(method, shards, "class"), measured(method, shards, "class")
    assert first.metrics == second.metrics
    assert method.training
    assert method.dropout.training
    assert not method.words.training


def test_five_folds_are_measured_apart(
    shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Coco1kFiveFold, "images", IMAGES)
    monkeypatch.setattr(coco_1k_5fold, "FOLD", 4)
    found = measured(Bags(), shards, "coco-1k-5fold").metrics
    items = list(samples().items())
    parts = []
    for fold in range(5):
        write_shards(tmp_path / f"{fold}", [dict(items[4 * fold : 4 * fold + 4])])
        parts.append(measured(Bags(), tmp_path / f"{fold}", "all-captions").metrics)
    for name, value in found.items():
        of_parts = [part[name.replace("coco-1k-5fold", "all-captions")] for part in parts]
        assert value == pytest.approx(sum(of_parts) / 5), name
    assert found["coco-1k-5fold/num_images"] == 4


def test_the_default_is_what_the_recipe_asks_for_else_what_the_shards_have(shards: Path) -> None:
    def named(**given: object) -> set[str]:
        return {name.split("/")[0] for name in measured(Bags(), shards, **given).metrics}

    assert named() == {"all-captions"}
    assert named(relevance=RELEVANCE) == {"relevance"}
    assert named(protocols=["gap", "class"], relevance=RELEVANCE) == {"gap", "class"}


def test_an_image_whose_json_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    broken = samples()
    broken["004"] = broken["004"] | {"json": b"{"}
    write_shards(tmp_path, [broken])
    found = measured(Bags(), tmp_path, "class")
    assert found.metrics["class/num_images"] == IMAGES - 1
    assert [fault.key for fault in found.faults] == ["004"]


class FeaturesOfTexts(Bags):
    def __init__(self) -> None:
        super().__init__()
        self.text = nn.ModuleList([Features(DIM)])


MISTAKES = {
    **{
        name: (
            Bags,
            {"labels": False},
            f"URL has no labels in its samples' JSON or .cls, which {name}",
        )
        for name in ("class", "zero-shot", "visual")
    },
    "visual of several embeddings": (
        TwoSenses,
        {},
        "visual compares one embedding of an image with one of another, and this method has 2",
    ),
    "visual-graded": (
        Bags,
        {"count": 1},
        "no two images of URL share a label, which visual-graded is measured by; choose",
    ),
    "composed": (
        Bags,
        {},
        "composed is not for this method; it is measured by all-captions or aro or class or ",
    ),
    **{
        name: (Bags, {}, f"{name} is fitted on labelled shards: name them in data.probe_train, or")
        for name in ("linear-probe", "knn")
    },
    "zero-shot of features": (
        FeaturesOfTexts,
        {"texts": True},
        "zero-shot encodes the names of classes, but method.text is kind: features: the shards",
    ),
    "class-normalised": (
        TwoSenses,
        {},
        "class-normalised compares one embedding of an image with one of a text, and this method "
        "has 2 of each; ",
    ),
    "gap": (Bags, {"count": 1}, "gap is measured on two images at least, and URL has one"),
    "flickr-1k": (Bags, {}, "flickr-1k is measured on exactly 1,000 images, but URL has 20; use"),
    "relevance": (Bags, {}, "URL has no relevance.json, which relevance reads; use all-captions"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_be_measured_is_one_line(mistake: str, tmp_path: Path) -> None:
    kind, options, line = MISTAKES[mistake]
    write_shards(tmp_path, [samples(**options)])
    method = kind()
    with pytest.raises(UserError) as error:
        measured(method, tmp_path, mistake.split(" ", maxsplit=1)[0])
    assert str(error.value).startswith(line.replace("URL", str(tmp_path)))
    # What can be told beforehand is told before anything is encoded.
    early = mistake not in ("class-normalised", "gap", "visual-graded") and kind is not TwoSenses
    assert (method.encoded == 0) == early


@dataclass
class Views:
    images: Tensor
    fused: Tensor | None


class Alike(Bags):
    """Images, and with a text the sum of both."""

    contents = BatchSpec(views=2, captions=2)

    def encode(self, batch: Batch) -> Views:
        found = super().encode(batch)
        assert found.images is not None
        if found.texts is None:
            return Views(found.images, None)
        return Views(found.images, F.normalize(found.images + found.texts, dim=1))


class AlikeWithoutTexts(Alike):
    contents = BatchSpec(views=2, captions=0)


def of_views(method: Method, shards: Path, *protocols: str) -> Retrieval:
    dataset, _ = sets_to_measure(
        method.contents, read_manifest(shards), None, ImageTransform(8), TOKENIZER
    )
    return evaluate_retrieval(
        method,
        dataset,
        RELEVANCE,
        EvaluationConfig(batch_size=3),
        protocols=protocols or None,
        device=CPU,
        workers=0,
        max_bad_share=0.2,
    )


def test_images_that_find_images_are_measured_without_and_with_their_texts(shards: Path) -> None:
    asked = ("visual", "visual-graded")
    alone = of_views(AlikeWithoutTexts(), shards, *asked).metrics
    both = of_views(Alike(), shards, *asked).metrics
    with_text = {name: value for name, value in both.items() if "-with-text/" in name}
    assert alone == {name: value for name, value in both.items() if name not in with_text}
    assert {name.replace("-with-text", "") for name in with_text} == set(alone)
    assert with_text["visual-with-text/map@r"] != pytest.approx(alone["visual/map@r"])
    # A method that matches captions with its images has the same images.
    assert measured(Bags(), shards, *asked).metrics == alone
    assert of_views(Alike(), shards).metrics.keys() == {
        name for name in both if not name.startswith("visual-graded")
    }


def test_the_text_of_an_image_is_its_first_caption(shards: Path) -> None:
    method = Alike()
    with in_evaluation(method):
        dataset = evaluation_set(read_manifest(shards), ImageTransform(8), TOKENIZER)
        gallery, _ = embed(method, dataset, 3, device=CPU, workers=0)
        tokens, mask = TOKENIZER([f"{n} {WORDS[n % 3]} 0" for n in range(IMAGES)])
        texts = super(Alike, method).encode(Batch(tokens=tokens, token_mask=mask)).texts
    assert gallery.fused is not None
    assert texts is not None
    assert torch.allclose(gallery.fused, F.normalize(gallery.images + texts, dim=1), atol=1e-6)
    assert len(gallery.texts) == len(gallery.owners) == 0


def test_images_are_shown_what_they_find(shards: Path) -> None:
    found = of_views(AlikeWithoutTexts(), shards)
    reader = evaluation_set(read_manifest(shards), ImageTransform(8), TOKENIZER).reader
    examples = load_examples(found.examples, reader)
    assert len(examples) == 6
    for example, find in zip(examples, found.examples, strict=True):
        assert example.text is None
        assert find.query.number not in [part.number for part, _, _ in find.hits]
        first = next((n for n, (_, right, _) in enumerate(find.hits) if right), None)
        assert first == (find.rank if find.rank is not None and find.rank < 5 else None)
        labels = set(reader[find.query.number].labels())
        for (part, right, _), hit in zip(find.hits, example.hits, strict=True):
            assert right == hit.is_relevant == bool(labels & set(reader[part.number].labels()))


def test_methods_with_senses_are_measured_by_their_score(shards: Path) -> None:
    metrics = measured(TwoSenses(), shards, "all-captions", "class", "gap", "zero-shot").metrics
    plain = measured(Bags(), shards, "gap").metrics
    assert {name.split("/")[0] for name in metrics} == {"all-captions", "class", "gap", "zero-shot"}
    assert metrics["gap/paired_cosine"] > plain["gap/paired_cosine"]
    assert metrics["gap/centroid_distance"] == pytest.approx(0, abs=1e-6)


def of_a_rank(shards: Path) -> tuple[dict[str, float], dict[str, float]]:
    asked = ("all-captions", "by-language", "class", "class-normalised", "gap", "zero-shot")
    return (
        measured(Bags(), shards, *asked).metrics,
        measured(Learned(), shards, *asked, all_pairs=50, shortlist=4).metrics,
    )


def test_all_ranks_get_the_same(shards: Path) -> None:
    alone = of_a_rank(shards)
    first, second = on_ranks(2, of_a_rank, shards)
    assert first == second
    for found, expected in zip(first, alone, strict=True):
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("kind", [Bags, Learned])
def test_what_is_shown_is_what_ranks_were_counted_of(kind: type[Method], shards: Path) -> None:
    found = measured(kind(), shards, "gap", "relevance", relevance=RELEVANCE)
    samples_read = evaluation_set(read_manifest(shards), ImageTransform(8), TOKENIZER).reader
    examples = load_examples(found.examples, samples_read)
    assert len(examples) == 12
    for example in examples:
        assert len(example.hits) == 5
        scores = [hit.score for hit in example.hits]
        assert scores == sorted(scores, reverse=True)
        first_relevant = next((n for n, hit in enumerate(example.hits) if hit.is_relevant), None)
        assert (example.rank < 5) == (first_relevant is not None)
        assert first_relevant in (None, example.rank)
    assert [example.text for example in examples[:2]] == ["0 red 0", "3 red 1"]


def test_texts_of_features_are_shown_by_their_labels(tmp_path: Path) -> None:
    write_shards(tmp_path, [samples(texts=True)])
    found = measured(Bags(), tmp_path)
    reader = evaluation_set(read_manifest(tmp_path), ImageTransform(8), TOKENIZER).reader
    assert load_examples(found.examples, reader)[0].text == "red, green"


def test_what_any_order_would_reach_is_named(tmp_path: Path) -> None:
    found = {
        key: members | {"json": described([f"{key} red"], image_id="same")}
        for key, members in samples().items()
    }
    write_shards(tmp_path, [found])
    result = measured(Bags(), tmp_path)
    assert result.metrics["all-captions/text_to_image/recall@1"] == 100
    assert result.warnings == [
        f"warning: all-captions/image_to_text/recall@1 and others of {tmp_path} cannot be less "
        f"than 100: all {IMAGES} images have the same image_id; give each image its own, or none"
    ]


def test_metrics_that_say_something_are_not_named(shards: Path) -> None:
    assert measured(Bags(), shards, "class", "gap").warnings == []

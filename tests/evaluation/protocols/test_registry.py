from pathlib import Path

import pytest

from xmodal.assembly.recipe import read_recipe
from xmodal.data.batch import PAIRS, BatchSpec
from xmodal.errors import UserError
from xmodal.evaluation.config import PROTOCOLS
from xmodal.evaluation.context import MEASURES
from xmodal.evaluation.protocols.registry import (
    BETTER,
    CAPTIONED,
    COMPOSED,
    all_metric_names,
    metric_names,
    named,
)
from xmodal.methods.method import Method
from xmodal.runs.recipe_file import dump_recipe

RECIPES = Path(__file__).parents[3] / "launch" / "recipes"


SIMSIAM = BatchSpec(views=2, captions=0)
PTF_SIMCM = BatchSpec(views=2, captions=2)
TIRG = BatchSpec(composed=True)


def of(contents: BatchSpec = PAIRS, *, learned_score: bool = False) -> Method:
    """A method that is nothing but what it says of itself."""
    said = {"contents": contents, "learned_score": learned_score, "losses": {}, "encode": None}
    return type("Said", (Method,), said)()


def test_every_protocol_is_measured_one_way() -> None:
    assert sorted([*CAPTIONED, *COMPOSED, *MEASURES]) == sorted(PROTOCOLS)
    assert BETTER.keys() == set(PROTOCOLS)


def test_the_default_has_a_name_of_its_own() -> None:
    assert named(None, PAIRS, None) == named(["default"], PAIRS, None) == ["all-captions"]
    assert named(["gap", "default", "relevance"], PAIRS, {}) == ["gap", "relevance"]
    assert named(None, SIMSIAM, {}) == named(None, PTF_SIMCM, None) == ["visual"]
    assert named(["cirr", "default"], TIRG, None) == ["cirr", "composed"]


def test_metrics_that_something_can_be_required_of() -> None:
    names = all_metric_names(["class", "gap"], of(learned_score=True))
    assert {"class/map", "class-by-distance/map", "gap/rmg"} <= set(names)
    assert "relevance/text_to_image/median_rank" in all_metric_names(["relevance"], of())
    assert "cirr/median_rank" in all_metric_names(["cirr"], of(TIRG))


def test_images_with_their_texts_are_measured_under_a_name_of_their_own() -> None:
    names = metric_names(["visual"], of(PTF_SIMCM))
    alone = metric_names(["visual"], of(SIMSIAM))
    assert names == [*alone, *(one.replace("/", "-with-text/") for one in alone)]
    assert alone == metric_names(["visual"], of())


def test_metrics_are_named_before_there_is_data() -> None:
    names = metric_names(["all-captions", "gap", "zero-shot"], of())
    assert names[:2] == [
        "all-captions/image_to_text/recall@1",
        "all-captions/image_to_text/recall@5",
    ]
    assert names[6:] == [
        "all-captions/rsum",
        "zero-shot/top1",
        "zero-shot/top5",
        "zero-shot/mean_class_recall",
    ]
    # The mean of both directions comes first, as what `map` alone means.
    assert metric_names(["class"], of())[0] == "class/map"


def test_a_recipe_names_what_is_measured(tmp_path: Path) -> None:
    recipe = read_recipe("quickstart", ["evaluation.protocols=[gap, class]"], RECIPES)
    assert recipe.evaluation.protocols == ["gap", "class"]
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert read_recipe(str(tmp_path / "again.yaml"), [], RECIPES) == recipe


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "evaluation.protocols=[gap, clas]",
            "evaluation.protocols.1: clas is not allowed: input should be 'default', ",
        ),
        ("evaluation.protocols=[]", "evaluation.protocols: [] is not allowed: list should have at"),
        ("evaluation.templates=['a photo']", "is not allowed: {} is missing, the place of a class"),
        (
            "evaluation.shortlist=0",
            "evaluation.shortlist: 0 is not allowed: input should be greate",
        ),
    ],
)
def test_a_mistake_is_named(override: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        read_recipe("quickstart", [override], RECIPES)
    assert line in str(error.value)

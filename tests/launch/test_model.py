"""`xmodal.load`: a run in Python, equal to what launch/evaluate.py embeds."""

import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import xmodal
from tests.commands import evaluate, train
from tests.launch.methods import CHANGES, STAGES
from tests.shard_sets import encode, plain
from xmodal.data.manifest import read_manifest
from xmodal.data.reader import SampleReader
from xmodal.data.samples import RawSample
from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.errors import UserError
from xmodal.evaluation.embedding import embed, embed_queries
from xmodal.evaluation.retrieval import sets_to_measure

CPU = torch.device("cpu")
CUT = encode(plain(7))[:-20]  # a picture whose end is missing


@pytest.fixture(scope="module")
def model(finished: Path) -> xmodal.Model:
    return xmodal.load(finished, checkpoint="best", device="cpu")


def samples(url: object) -> list[RawSample]:
    reader = SampleReader(read_manifest(str(url)))
    return reader.load(range(len(reader)))


@pytest.fixture(scope="module")
def files(scenes: Path) -> list[bytes]:
    return [one.image() for one in samples(scenes / "val")]


def evaluated(model: xmodal.Model) -> tuple[Tensor, ...]:
    """What evaluation embeds: images and texts, and of composed queries the queries."""
    recipe, method = model.recipe, model.method
    shards = read_manifest(str(recipe.data.val))
    gallery = read_manifest(recipe.data.gallery) if recipe.data.gallery else None
    dataset, searched = sets_to_measure(
        method.contents, shards, gallery, model.transform, model.tokenizer
    )
    method.eval()
    with torch.no_grad():
        if searched is None:
            found, _ = embed(method, dataset, 256, device=CPU, workers=0)
            return found.images, found.texts
        queries, _ = embed_queries(method, dataset, 256, device=CPU, workers=0)
        found, _ = embed(method, searched, 256, device=CPU, workers=0)
    return found.images, queries.embeddings


@pytest.mark.parametrize("method", CHANGES)
def test_every_method_embeds_as_evaluation_does(
    method: str, given: Callable[[str], list[str]], tmp_path: Path
) -> None:
    lengths = [f"stages.{number}.length=1 steps" for number in range(len(STAGES[method]))]
    done = train(*given(method), *lengths, f"run={tmp_path}/run")
    assert done.code == 0, done.err
    before = torch.random.get_rng_state()
    model = xmodal.load(tmp_path / "run", device="cpu")
    assert torch.random.get_rng_state().equal(before)
    images, others = evaluated(model)
    data = model.recipe.data
    val = samples(data.val)
    if method in {"tirg", "dim"}:
        found = model.encode_images(one.image() for one in samples(data.gallery))
        sources = [one.image("source") for one in val]
        queries = model.encode_queries(sources, [one.captions()[0] for one in val])
        assert queries.equal(others)
        assert model.score(queries, found).shape == (len(queries), len(found))
    elif method == "uncsm":
        found = model.encode_images(np.stack([one.features("image") for one in val]))
        texts = model.encode_texts(np.concatenate([one.features("text") for one in val]))
        assert texts.equal(others)
        assert model.score(found, texts).shape == (len(val), len(texts))
    else:
        found = model.encode_images([one.image() for one in val])
        if model.method.contents.views == 1:
            texts = model.encode_texts(caption for one in val for caption in one.captions())
            assert texts.equal(others)
            assert model.score(found, texts).shape == (len(found), len(texts))
    assert found.dtype == torch.float32
    assert found.equal(images)
    if model.method.contents.composed or model.method.contents.views > 1:
        refuses_texts(model, "modifications" if model.method.contents.composed else "no texts")


def refuses_texts(model: xmodal.Model, why: str) -> None:
    calls: dict[str, Callable[[], Tensor]] = {
        "encode_texts": lambda: model.encode_texts(["a"]),
        "similarity": lambda: model.similarity([b""], ["a"]),
        "classify": lambda: model.classify([b""], ["a"]),
    }
    for name, call in calls.items():
        with pytest.raises(UserError, match=f"^{name}: .* {why}.*; use encode_"):
            call()


def test_images_come_in_every_form(model: xmodal.Model, files: list[bytes], tmp_path: Path) -> None:
    paths = []
    for number, data in enumerate(files[:3]):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(data)
    pictures = [Image.open(path) for path in paths]
    pixels = [np.asarray(picture.convert("RGB")) for picture in pictures]
    tensors = [torch.from_numpy(one.copy()).permute(2, 0, 1) for one in pixels]
    wanted = model.encode_images(files[:3])
    assert wanted.shape == (3, 64)
    forms = [paths, map(str, paths), pictures, iter(pixels), np.stack(pixels), torch.stack(tensors)]
    for form in forms:
        assert model.encode_images(form).equal(wanted)
    for one in (paths[0], str(paths[0]), pictures[0], pixels[0], tensors[0], files[0]):
        assert model.encode_images(one).shape == (1, 64)


def test_a_picture_is_turned_as_its_exif_says(model: xmodal.Model) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :16] = 255
    upright = Image.fromarray(pixels)  # of the model's size: a turn and a resize do not commute
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    upright.rotate(90).save(buffer, "PNG", exif=exif)
    turned = Image.open(buffer)
    assert model.encode_images([turned]).equal(model.encode_images([upright]))


def test_batches_of_any_size_make_the_same(model: xmodal.Model, files: list[bytes]) -> None:
    whole = model.encode_images(files)
    torch.testing.assert_close(model.encode_images(files, batch_size=5, progress=True), whole)


def test_scores_and_similarity_are_of_unit_vectors(model: xmodal.Model, files: list[bytes]) -> None:
    texts = ["a red circle", "a blue square"]
    images, said = model.encode_images(files[:4]), model.encode_texts(texts)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(model.score(images, said), images @ said.T)
    torch.testing.assert_close(model.similarity(files[:4], texts), images @ said.T)
    assert model.encode_texts("a red circle").shape == (1, 64)


def test_classes_are_named_by_templates(model: xmodal.Model, files: list[bytes]) -> None:
    scores = model.classify(files[:4], ["circle", "square", "star"], ["a {}", "the {}."])
    texts = model.encode_texts(["a star", "the star."]).mean(0)
    wanted = model.encode_images(files[:4]) @ torch.nn.functional.normalize(texts, dim=0)
    torch.testing.assert_close(scores[:, 2], wanted)
    assert scores.shape == (4, 3)


@pytest.mark.parametrize(
    ("use", "line"),
    [
        (lambda model: model.encode_images([b"nothing"]), "image 0: image does not decode"),
        (lambda model: model.encode_images([CUT]), "image 0: image does not decode (truncated)"),
        (lambda model: model.encode_images(["there/is/none.png"]), "there/is/none.png cannot be"),
        (lambda model: model.encode_images([3]), "image 0: an int is not an image; give a path"),
        (lambda model: model.encode_images(np.zeros((3, 4, 4))), "pixels must be uint8"),
        (lambda model: model.encode_images(None), "images: None is not an image; give a path"),
        (lambda model: model.encode_images(3), "images: an int is not an image; give a path"),
        (lambda model: model.encode_images([b""], batch_size=0), "batch_size=0 must be a whole"),
        (lambda model: model.encode_texts([3]), "text 0: an int is not a text; give strings"),
        (lambda model: model.encode_texts(None), "texts: None is not a text; give strings"),
        (lambda model: model.encode_texts(["a"], batch_size=-1), "batch_size=-1 must be a whole"),
        (lambda model: model.score(torch.zeros(2, 3), torch.zeros(2, 4)), "score: queries (2, 3)"),
        (lambda model: model.score(torch.zeros(3), torch.zeros(2, 3)), "queries must be embeddin"),
        (lambda model: model.score([1], torch.zeros(2, 3)), "a tensor of embeddings, not a list"),
        (lambda model: model.classify([b""], [None]), "name 0: None is not a name"),
        (lambda model: model.classify([b""], []), "at least one name and one template"),
        (lambda model: model.encode_images([]), "there is nothing to encode"),
        (lambda model: model.encode_queries([b""], ["in red"]), "encode_queries: clip composes"),
        (lambda model: model.classify([b""], ["cat"], ["a photo"]), "template 'a photo' has no {}"),
    ],
)
def test_what_cannot_be_used_is_a_line(
    use: Callable[[xmodal.Model], object], line: str, model: xmodal.Model
) -> None:
    with pytest.raises(UserError) as caught:
        use(model)
    assert line in str(caught.value)


def test_a_run_that_is_none_is_a_line(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(UserError, match=r"is no run folder"):
        xmodal.load(tmp_path)
    with pytest.raises(UserError, match=r"step-7"):
        xmodal.load(finished, checkpoint="step-7")


def test_a_text_encoder_from_elsewhere_is_built_from_the_run_alone(
    recipe: Path, tmp_path: Path
) -> None:
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = BertModel(BertConfig(vocab_size=300, intermediate_size=8, **size))
    encoder.save_pretrained(tmp_path / "bert")
    words = train_tokenizer(["a red circle"] * 9, 16, vocabulary=300).tokenizer
    words.save(str(tmp_path / "words.json"))
    PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "words.json"), pad_token="<pad>"
    ).save_pretrained(tmp_path / "bert")
    text = f"method.text={{kind: transformers, name: {tmp_path}/bert, context: 16}}"
    done = train(recipe, f"run={tmp_path}/run", text, "stages.0.length=1 steps")
    assert done.code == 0, done.err
    shutil.rmtree(tmp_path / "bert")
    assert xmodal.load(tmp_path / "run", device="cpu").encode_texts("a star").shape == (1, 64)
    assert evaluate(tmp_path / "run").code == 0


def test_using_a_model_needs_neither_deepspeed_nor_ray(finished: Path) -> None:
    code = (
        "import sys, xmodal; sys.modules |= dict.fromkeys(['deepspeed', 'ray', 's3fs']); "
        f"print(xmodal.load({str(finished)!r}, device='cpu').encode_texts(['a star']).shape)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "torch.Size([1, 64])\n", answer.stderr


def test_the_public_names_are_these() -> None:
    assert sorted(xmodal.__all__) == ["Model", "UserError", "load"]
    assert {name for name in dir(xmodal.Model) if not name.startswith("_")} == {
        "classify",
        "encode_images",
        "encode_queries",
        "encode_texts",
        "save_adapters",
        "score",
        "similarity",
    }

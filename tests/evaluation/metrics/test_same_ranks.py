"""Ranks are the same whatever computes the products: other kernels, threads, tiles, orders."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.evaluation.metrics.test_ranking import assert_equal_ranks, random_pairs, ranks_by_sorting
from xmodal.evaluation.metrics.average_precision import precisions
from xmodal.evaluation.metrics.own_ranks import own_ranks
from xmodal.evaluation.metrics.ranking import count_ranks
from xmodal.evaluation.metrics.similarity import Similarity, rank_all
from xmodal.evaluation.metrics.top_k import top_k
from xmodal.methods.scores import DotProduct, dot_product
from xmodal.models.metric_network import MetricNetwork

ROOT = Path(__file__).parents[3]


class Adversary:
    """A product that is off by as much as rounding allows, otherwise in each place and call."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        true = x.double() @ y.double()
        unit = x.shape[1] * torch.finfo(x.dtype).eps / 2
        sizes = x.double().abs() @ y.double().abs()
        signs = torch.randint(-1, 2, true.shape, generator=self.generator)
        return (true + signs * unit * sizes).to(x.dtype)


def near_ties(count: int, dim: int, seed: int) -> Tensor:
    """Vectors many of which are equal, or differ by a unit or two in their last bits.

    Their products are exact in float64.
    """
    generator = torch.Generator().manual_seed(seed)
    few = torch.randint(-(2**15), 2**15, (max(1, count // 8), dim), generator=generator)
    vectors = few[torch.randint(len(few), (count,), generator=generator)]
    vectors = vectors + torch.randint(-1, 2, vectors.shape, generator=generator) * (
        torch.rand(count, 1, generator=generator) < 0.3
    )
    return vectors.float() / 2**15


@given(
    num_images=st.integers(1, 90),
    num_texts=st.integers(1, 200),
    senses=st.sampled_from([None, 3]),
    dim=st.sampled_from([1, 5, 64]),
    tile=st.sampled_from([49, 2048]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_rounding_of_the_product_changes_a_rank(
    num_images: int,
    num_texts: int,
    senses: int | None,
    dim: int,
    tile: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    images, texts = (
        near_ties(count * (senses or 1), dim, seed).to(dtype) for count in (num_images, num_texts)
    )
    scores = images.double() @ texts.double().T
    if senses:
        images, texts = images.view(-1, senses, dim), texts.view(-1, senses, dim)
        scores = scores.view(num_images, senses, num_texts, senses).amax((1, 3))
    pairs = random_pairs(num_images, num_texts, seed)
    found = count_ranks(images, texts, pairs, DotProduct(Adversary(seed)), tile)
    assert_equal_ranks(found, ranks_by_sorting(scores.numpy(), pairs))


def test_ranks_of_large_embeddings_that_nearly_collapsed() -> None:
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(1 + 1e-5 * torch.randn(300, 256, generator=generator))
    texts = F.normalize(1 + 1e-5 * torch.randn(700, 256, generator=generator))
    texts[350:] = texts[:350]
    pairs = random_pairs(300, 700, seed=0)
    expected = ranks_by_sorting((images.double() @ texts.double().T.contiguous()).numpy(), pairs)
    alone = count_ranks(images, texts, pairs)
    # float64 tells these apart, but for the texts that are there twice.
    assert (alone.image_to_text - torch.from_numpy(expected[0])).abs().max() <= 350
    for seed in range(3):
        again = count_ranks(images, texts, pairs, DotProduct(Adversary(seed)))
        assert torch.equal(again.image_to_text, alone.image_to_text)
        assert torch.equal(again.text_to_image, alone.text_to_image)


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**83])
def test_products_that_float32_cannot_hold_are_ranked(scale: float) -> None:
    images, texts = near_ties(60, 8, 0) * scale, near_ties(80, 8, 0) * scale
    pairs = random_pairs(60, 80, seed=0)
    scores = (images.double() @ texts.double().T).numpy()
    assert_equal_ranks(count_ranks(images, texts, pairs), ranks_by_sorting(scores, pairs))


def test_what_is_infinite_is_an_error_and_not_a_good_rank() -> None:
    images, texts = torch.ones(3, 4), torch.ones(5, 4)
    texts[2, 1] = torch.inf
    pairs = random_pairs(3, 5, seed=0)
    with pytest.raises(ValueError, match="NaN among images 0 to 2"):
        count_ranks(images, texts, pairs)
    with pytest.raises(ValueError, match="NaN"):
        top_k(images, texts, 2)


def test_a_run_in_tf32_is_ranked_in_float32() -> None:
    before = torch.get_float32_matmul_precision()
    seen = set()

    def watched(x: Tensor, y: Tensor) -> Tensor:
        seen.add((x.dtype, torch.get_float32_matmul_precision()))
        seen.add(torch.backends.cudnn.allow_tf32)
        return x @ y

    torch.set_float32_matmul_precision("medium")
    try:
        images = torch.ones(3, 4, dtype=torch.bfloat16)
        count_ranks(images, images, random_pairs(3, 3, seed=0), DotProduct(watched))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == {(torch.float32, "highest"), False}


def everything(given: dict[str, Tensor], network: MetricNetwork, tile: int) -> list[Tensor]:
    """All that is ranked, by every way of ranking."""
    images, texts, pairs, relevant = (given[k] for k in ("images", "texts", "pairs", "relevant"))

    def log_odds(v: Tensor, t: Tensor) -> Tensor:
        logits = network(v, t)
        return logits[:, 1] - logits[:, 0]

    def shared(rows: Tensor) -> Tensor:
        return relevant[rows]

    found: list[Tensor] = []
    for similarity in (
        Similarity(dot_product),
        Similarity(dot_product, log_odds, 20),
        Similarity(network.all_pairs),
    ):
        ranks = rank_all(images, texts, pairs, similarity, tile)
        judged = precisions(images, texts, similarity, shared, tile)
        found += [ranks.image_to_text, ranks.text_to_image, judged.average, judged.curve]
    own = own_ranks(images, texts, shared, lambda rows: ~relevant[rows - 1], tile)
    return [*found, own.ranks, *top_k(images, texts, 30, tile=tile)]


def write_everything(folder: Path, tile: int, name: str) -> None:
    given = torch.load(folder / "given.pt")
    network = MetricNetwork(given["images"].shape[1], (40, 20)).eval()
    network.load_state_dict(torch.load(folder / "network.pt"))
    with torch.no_grad():
        torch.save(everything(given, network, tile), folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of embeddings, many of them equal, and what is ranked of them here."""
    folder = tmp_path_factory.mktemp("ranks")
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(133, 301, generator=generator))
    images[70:] = images[torch.randint(70, (63,), generator=generator)]
    place = torch.randint(133, (203,), generator=generator)
    texts = images[place] + 0.01 * (torch.arange(203) % 3 == 0)[:, None]
    pairs, relevant = random_pairs(133, 203, seed=0), torch.rand(133, 203, generator=generator)
    given = {"images": images, "texts": texts, "pairs": pairs, "relevant": relevant < 0.1}
    torch.save(given, folder / "given.pt")
    torch.manual_seed(0)
    torch.save(MetricNetwork(301, (40, 20)).state_dict(), folder / "network.pt")
    write_everything(folder, 2048, "here.pt")
    return folder


ELSEWHERE = [
    {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"},
    {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "2"},
    {"MKL_ENABLE_INSTRUCTIONS": "AVX512", "ATEN_CPU_CAPABILITY": "avx512", "OMP_NUM_THREADS": "1"},
    {"MKL_CBWR": "AVX2", "ATEN_CPU_CAPABILITY": "avx512", "OMP_NUM_THREADS": "2"},
    {"MKL_CBWR": "AVX512", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "2"},
    {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "2"},
]


@pytest.mark.parametrize(
    "variables",
    [*ELSEWHERE[:1], *(pytest.param(each, marks=pytest.mark.slow) for each in ELSEWHERE[1:])],
    ids=lambda each: "-".join(each.values()),
)
@pytest.mark.parametrize("tile", [100, pytest.param(700, marks=pytest.mark.slow)])
def test_ranks_are_those_of_other_kernels_and_threads(
    folder: Path, tile: int, variables: dict[str, str]
) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.evaluation.metrics.test_same_ranks",
        str(folder),
        str(tile),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    subprocess.run(command, env=environment, check=True, timeout=300)
    here, elsewhere = torch.load(folder / "here.pt"), torch.load(folder / "elsewhere.pt")
    for ours, theirs in zip(here, elsewhere, strict=True):
        assert torch.equal(ours, theirs)


if __name__ == "__main__":
    write_everything(Path(sys.argv[1]), int(sys.argv[2]), "elsewhere.pt")

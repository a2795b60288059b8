import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xmodal.evaluation.metrics.ranking import Ranks, count_ranks
from xmodal.evaluation.metrics.top_k import top_k

ROOT = Path(__file__).parents[3]


def ranks_by_sorting(scores: np.ndarray, relevant_pairs: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Position of the first true item in the sorted full matrix, wrong items first in a tie."""
    is_relevant = np.zeros(scores.shape, dtype=bool)
    is_relevant[relevant_pairs[:, 0], relevant_pairs[:, 1]] = True

    def first_relevant(row_scores: np.ndarray, row_is_relevant: np.ndarray) -> int:
        return int(row_is_relevant[np.lexsort((row_is_relevant, -row_scores))].argmax())

    image_to_text = [first_relevant(*row) for row in zip(scores, is_relevant, strict=True)]
    text_to_image = [
        first_relevant(*column) for column in zip(scores.T, is_relevant.T, strict=True)
    ]
    return np.array(image_to_text), np.array(text_to_image)


def assert_equal_ranks(ranks: Ranks, expected: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_array_equal(ranks.image_to_text, expected[0])
    np.testing.assert_array_equal(ranks.text_to_image, expected[1])


def random_pairs(num_images: int, num_texts: int, seed: int, extra: int = 10) -> Tensor:
    """Pairs in which every item occurs, some items often, some pairs twice."""
    generator = np.random.default_rng(seed)
    size = num_images + num_texts + extra
    images = generator.integers(num_images, size=size)
    texts = generator.integers(num_texts, size=size)
    images[:num_images] = np.arange(num_images)
    texts[num_images : num_images + num_texts] = np.arange(num_texts)
    return torch.from_numpy(np.stack([images, texts], 1))


def captions_in_order(num_images: int, captions_per_image: int = 5) -> Tensor:
    texts = torch.arange(num_images * captions_per_image)
    return torch.stack([texts // captions_per_image, texts], 1)


@settings(deadline=None, max_examples=150)
@given(
    num_images=st.integers(1, 150),
    num_texts=st.integers(1, 300),
    dim=st.integers(1, 5),
    largest=st.integers(0, 4),
    tile=st.sampled_from([1, 49, 100, 2048]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_ranks_equal_those_of_the_sorted_matrix_with_many_ties(
    num_images: int,
    num_texts: int,
    dim: int,
    largest: int,
    tile: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Small whole numbers: every score is exact, many are equal.
    images = torch.randint(-largest, largest + 1, (num_images, dim), generator=generator).to(dtype)
    texts = torch.randint(-largest, largest + 1, (num_texts, dim), generator=generator).to(dtype)
    pairs = random_pairs(num_images, num_texts, seed)

    ranks = count_ranks(images, texts, pairs, tile=tile)

    scores = images.double().numpy() @ texts.double().numpy().T
    assert_equal_ranks(ranks, ranks_by_sorting(scores, pairs))


@settings(deadline=None, max_examples=30)
@given(
    num_images=st.integers(1, 120),
    dim=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
)
def test_ranks_of_real_valued_embeddings(num_images: int, dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(num_images, dim, generator=generator, dtype=torch.float64)
    texts = torch.randn(5 * num_images, dim, generator=generator, dtype=torch.float64)
    pairs = captions_in_order(num_images)
    expected = ranks_by_sorting((images @ texts.T).numpy(), pairs)
    assert_equal_ranks(count_ranks(images, texts, pairs), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 7, 64, 257, 512])
@pytest.mark.parametrize(("num_images", "num_texts"), [(1, 5), (17, 33), (100, 130), (501, 1003)])
def test_equal_embeddings_tie_whatever_rounding_does(
    num_images: int, num_texts: int, dim: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(153)  # in float64, exact scores are lower than fast
    images = torch.randn(1, dim, dtype=dtype, generator=generator).expand(num_images, dim)
    texts = torch.randn(1, dim, dtype=dtype, generator=generator).expand(num_texts, dim)
    pairs = random_pairs(num_images, num_texts, seed=0, extra=0).unique(dim=0)
    ranks = count_ranks(images, texts, pairs)
    assert torch.equal(ranks.image_to_text, num_texts - pairs[:, 0].bincount())
    assert torch.equal(ranks.text_to_image, num_images - pairs[:, 1].bincount())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tile", [48, 144, 2048])
def test_a_duplicate_of_the_true_item_counts_against_the_model(
    dtype: torch.dtype, tile: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(211, 300, generator=generator, dtype=dtype))
    # Two texts are as near to image i as can be: one is true of it, its twin of image i + 1. They
    # lie in a random order, so that twins meet in other tiles and other places of a tile.
    place = torch.randperm(422, generator=generator)
    texts = torch.cat([images, images])[place.argsort()]
    image = torch.arange(211)
    pairs = torch.stack([torch.cat([image, (image + 1) % 211]), place], 1)

    ranks = count_ranks(images, texts, pairs, tile=tile)
    mirrored = count_ranks(texts, images, pairs.flip(1), tile=tile)

    assert ranks.image_to_text.tolist() == [1] * 211
    assert mirrored.text_to_image.tolist() == [1] * 211


def test_the_best_of_several_true_items_counts() -> None:
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[0.1, 0.0], [0.9, 0.5], [0.0, 1.0], [0.5, 0.0]])
    pairs = torch.tensor([[0, 0], [0, 3], [1, 1], [1, 2]])
    ranks = count_ranks(images, texts, pairs)
    assert ranks.image_to_text.tolist() == [1, 0]
    assert ranks.text_to_image.tolist() == [0, 1, 0, 0]


def test_a_method_may_score_sets_of_vectors() -> None:
    def best_of_all_pairs(images: Tensor, texts: Tensor) -> Tensor:
        return torch.einsum("akd,bld->abkl", images, texts).amax((2, 3))

    generator = torch.Generator().manual_seed(1)
    images = torch.randint(-2, 3, (60, 3, 4), generator=generator).float()
    texts = torch.randint(-2, 3, (110, 2, 4), generator=generator).float()
    pairs = random_pairs(60, 110, seed=1)
    expected = ranks_by_sorting(best_of_all_pairs(images, texts).numpy(), pairs)
    assert_equal_ranks(count_ranks(images, texts, pairs, best_of_all_pairs), expected)


def test_what_pads_a_tile_is_not_judged() -> None:
    def cosine(images: Tensor, texts: Tensor) -> Tensor:
        return (images / images.norm(dim=1, keepdim=True)) @ (texts / texts.norm(dim=1)[:, None]).T

    images = torch.eye(3)
    ranks = count_ranks(images, images, torch.tensor([[0, 0], [1, 1], [2, 2]]), cosine)
    assert ranks.image_to_text.tolist() == [0, 0, 0]


def test_infinite_scores_are_ranked() -> None:
    scores = torch.tensor([[-torch.inf, 0.0], [torch.inf, torch.inf]])
    ranks = count_ranks(
        torch.arange(2),
        torch.arange(2),
        torch.tensor([[0, 0], [1, 1]]),
        lambda images, texts: scores[images][:, texts],
    )
    assert ranks.image_to_text.tolist() == [1, 1]
    assert ranks.text_to_image.tolist() == [1, 0]


@pytest.mark.parametrize("broken", [0, 149])
def test_a_nan_is_an_error_and_not_a_good_rank(broken: int) -> None:
    images, texts = torch.ones(30, 4), torch.ones(150, 4)
    texts[broken, 2] = torch.nan
    with pytest.raises(ValueError, match="NaN among images 0 to 29 with texts"):
        count_ranks(images, texts, captions_in_order(30))
    with pytest.raises(ValueError, match="NaN among items"):
        top_k(images, texts, 5)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([[0, 0], [0, 1], [0, 2]], "1 of 2 images have no relevant partner .* image 1"),
        ([[0, 0], [1, 0]], "2 of 3 texts have no relevant partner .* text 1"),
        ([[0, 0], [1, 1], [1, 3]], "beyond the 3 texts"),
        ([[0, 0], [-1, 1], [1, 2]], "beyond the 2 images"),
        ([[0, 0, 1]], r"must be \(num_pairs, 2\)"),
    ],
)
def test_wrong_pairs_are_named(pairs: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count_ranks(torch.ones(2, 4), torch.ones(3, 4), torch.tensor(pairs))


def test_an_empty_gallery_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 images and 0 texts"):
        count_ranks(torch.ones(2, 4), torch.ones(0, 4), torch.zeros(0, 2, dtype=torch.int64))


def run_script(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


# Four processes count together, then the first two, each in its own group.
RANKS_OF_PROCESS = """
import sys
import torch
import torch.distributed as dist
from xmodal.evaluation.metrics.ranking import count_ranks

rank, folder = int(sys.argv[1]), sys.argv[2]
for world in (4, 2):
    if rank < world:
        given = torch.load(f"{folder}/given.pt")
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting{world}", rank=rank, world_size=world
        )
        ranks = count_ranks(**given)
        torch.save([ranks.image_to_text, ranks.text_to_image], f"{folder}/{world}-{rank}.pt")
        # Infinity times zero: the score of the last image with the last text alone is NaN.
        given["images"][-1, 0], given["texts"][-1, 0] = torch.inf, 0
        try:
            count_ranks(**given)
        except ValueError as error:
            print(error)
        dist.destroy_process_group()
"""


def test_ranks_are_equal_on_one_two_and_four_processes(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(150, 33, generator=generator)
    texts = torch.randn(700, 33, generator=generator)
    texts[500:] = texts[:200]
    pairs = random_pairs(150, 700, seed=2)
    given = {"images": images, "texts": texts, "relevant_pairs": pairs}
    torch.save(given, tmp_path / "given.pt")

    processes = [run_script(RANKS_OF_PROCESS, str(rank), str(tmp_path)) for rank in range(4)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    alone = count_ranks(images, texts, pairs)
    for world in (2, 4):
        for rank in range(world):
            image_to_text, text_to_image = torch.load(tmp_path / f"{world}-{rank}.pt")
            assert torch.equal(image_to_text, alone.image_to_text)
            assert torch.equal(text_to_image, alone.text_to_image)
            # All hear of the NaN that one has met, or they would wait for it.
            assert outputs[rank].count("a score is NaN among images") == (2 if rank < 2 else 1)


MEMORY_OF_COUNTING = """
import resource
import torch
from xmodal.evaluation.metrics.ranking import count_ranks

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

images = torch.randn(24_000, 8)
pairs = torch.arange(24_000)[:, None].expand(-1, 2)
count_ranks(images[:100], images[:100], pairs[:100])
before = peak_mib()
ranks = count_ranks(images, images, pairs)
assert ranks.image_to_text.max() < 24_000
print(peak_mib() - before)
"""


def test_memory_is_that_of_tiles_and_not_of_the_score_matrix() -> None:
    # As booleans alone the matrix would take 549 MiB, a tile of 2,016 a side takes 16 MiB in fp32.
    output = run_script(MEMORY_OF_COUNTING).communicate(timeout=120)[0]
    assert float(output) < 120

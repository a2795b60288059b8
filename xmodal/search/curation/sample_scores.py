"""Scores of the images of samples with the captions of samples, and which samples are relevant.

The score of an image with a sample is that of its best caption. Samples are relevant to each other
that are of the same image, by image ids, or have a caption in common, word for word.
"""

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from xmodal.activity import tracked
from xmodal.errors import UserError
from xmodal.methods.scores import dot_product
from xmodal.search.searcher import Searcher

CAPTIONS = 4096  # scored at a time


class SampleScores:
    """Scores of a set's images with its captions, by dot product of their embeddings.

    Attributes:
        images: embeddings (samples, …).
        texts: embeddings (captions, …).
        owner: the row of each caption's image, (captions,) int64, ascending.
    """

    def __init__(self, searcher: Searcher) -> None:
        if "texts" not in searcher.sides:
            raise UserError(f"{searcher.index.path} has no texts: embed images with their captions")
        self.searcher = searcher
        self.images, self.texts = (searcher.sides[side].vectors for side in ("images", "texts"))
        self.captions = searcher.sides["texts"].metadata
        self.owner = self.captions["row"].to_numpy()
        if (np.diff(self.owner) < 0).any():
            raise UserError(f"{searcher.index.path}: captions are not in the order of their images")

    def __len__(self) -> int:
        return len(self.images)

    def of_captions(self) -> np.ndarray:
        """Return the score of each caption with its own image, (captions,) float32."""
        scores = torch.empty(len(self.texts))
        for rows in tracked(torch.arange(len(self.texts)).split(CAPTIONS), "scoring pairs: block"):
            block = slice(int(rows[0]), int(rows[-1]) + 1)
            texts, images = self.texts[block].float(), self._images(self.owner[block])
            scores[block] = _score_pairs(images, texts)
        return scores.numpy()

    def own(self, scores: np.ndarray) -> np.ndarray:
        """Return the best score of each sample's captions, (samples,); -inf without a caption."""
        best = np.full(len(self), -np.inf, np.float32)
        np.maximum.at(best, self.owner, scores)
        return best

    def tile(self, rows: range, columns: range) -> tuple[Tensor, Tensor]:
        """Return scores (rows, columns): of images of `rows` with samples `columns`, and of images
        of `columns` with samples `rows`.
        """
        return self._scores(rows, columns), self._scores(columns, rows).T

    def is_relevant(self, rows: range, columns: range) -> Tensor:
        """Return which samples are relevant to each other, (rows, columns) bool."""
        shared = self._traits[rows.start : rows.stop] @ self._traits[columns.start : columns.stop].T
        return torch.from_numpy(shared.toarray() > 0)

    def _scores(self, images: range, samples: range) -> Tensor:
        """Return the scores of images with the best caption of samples, (images, samples)."""
        first, last = np.searchsorted(self.owner, [samples.start, samples.stop])
        texts = self.texts[int(first) : int(last)].float()
        of_texts = dot_product(self.images[images.start : images.stop].float(), texts)
        place = torch.from_numpy(self.owner[first:last] - samples.start).expand_as(of_texts)
        best = of_texts.new_full((len(images), len(samples)), -torch.inf)
        return best.scatter_reduce_(1, place, of_texts, "amax")

    def _images(self, rows: np.ndarray) -> Tensor:
        return self.images[torch.from_numpy(rows)].float()

    @cached_property
    def _traits(self) -> csr_matrix:
        """Image ids and captions of the samples, (samples, image ids and captions)."""
        ids = codes(self.searcher.sides["images"].metadata["image_id"])
        texts = codes(self.captions["caption"])
        rows = np.concatenate([np.arange(len(ids)), self.owner])
        columns = np.concatenate([ids, texts + ids.max(initial=-1) + 1])
        ones = np.ones(len(rows), np.int32)
        return csr_matrix((ones, (rows, columns)), (len(self), int(columns.max(initial=0)) + 1))


def _score_pairs(images: Tensor, texts: Tensor) -> Tensor:
    """Return the score of each image (n, …) with the text of its row, (n,)."""
    if images.ndim == 2:
        return (images * texts).sum(1)
    return torch.einsum("nkd,nld->nkl", images, texts).amax((1, 2))


def codes(column: pa.ChunkedArray) -> np.ndarray:
    """Return a number for each value, equal for equal ones, (rows,) int64; none equals null."""
    encoded = pc.dictionary_encode(column).combine_chunks()
    numbers: np.ndarray = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
    missing = numbers < 0
    numbers[missing] = len(encoded.dictionary) + np.arange(missing.sum())
    return numbers

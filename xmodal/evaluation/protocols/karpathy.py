"""Test splits of Karpathy and Fei-Fei (2015): a fixed number of images, five captions each."""

from typing import ClassVar

from xmodal.data.reader import SampleReader
from xmodal.errors import UserError
from xmodal.evaluation.context import EvaluationContext, EvaluationData
from xmodal.evaluation.gallery import Gallery
from xmodal.evaluation.protocols.all_captions import AllCaptions, Ranking, rank_captions

CAPTIONS = 5  # of an image, in those splits


class KarpathySplit(AllCaptions):
    """Recall on a split of `images` images and the first five captions of each."""

    images: ClassVar[int]

    def check(self, data: EvaluationData) -> None:
        super().check(data)
        self.check_size(len(data.reader), data.reader.manifest.url)

    def rank(self, context: EvaluationContext) -> Ranking:
        return rank_captions(context, self.five_captions(context.gallery, context.reader), None)

    def check_size(self, images: int, url: str) -> None:
        """Raise `UserError` for a set that has not as many images as the split."""
        if images != self.images:
            raise UserError(
                f"{self.name} is measured on exactly {self.images:,} images, but {url} has "
                f"{images:,}; use the split that it is defined on, or all-captions"
            )

    def five_captions(self, gallery: Gallery, reader: SampleReader) -> Gallery:
        """Return all images and the first five captions of each.

        Raises `UserError` for another number of images than the split has, of different ones, or
        an image with fewer captions.
        """
        url = reader.manifest.url
        self.check_size(len(gallery.image_ids.unique()), url)
        self.check_size(len(gallery.image_ids), url)
        counts = gallery.owners.bincount(minlength=len(gallery.images))
        if counts.min() < CAPTIONS:
            row = int((counts < CAPTIONS).nonzero()[0])
            shard, sample = reader.locate(int(gallery.numbers[row]))
            raise UserError(
                f"{self.name} is measured on {CAPTIONS} captions an image, but {shard.url}, "
                f"{sample.key} has {int(counts[row])}; use all-captions"
            )
        return gallery.first_captions(CAPTIONS)

"""Momentum encoder: an average of the encoders that embeds each batch beside them.

MoCo (He et al. 2020, arXiv 1911.05722, section 3.2): embeddings that are kept change more slowly
than the encoders that learn.
"""

from typing import Any

from xmodal.runs.averages import MOMENTUM, averaged
from xmodal.training.gradient_cache import GradientCache


def embed_by_momentum_encoder(engine: Any, cache: GradientCache) -> None:
    """Have a method with a momentum encoder embed the batch of the step that is complete by it.

    The average is a part of the optimiser's state: it is saved and resharded with that, and what a
    stage does not train is in no copy. Batch normalisation takes the statistics of the batch, as in
    training, and its running statistics stay those of the trained encoders.
    """
    if engine.module.momentum:
        with averaged(engine, MOMENTUM):
            cache.without_gradients(lambda method, batch: method.enqueue(batch))

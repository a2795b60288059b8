"""InfoNCE over the global batch in a DDP loop of one's own, exact on any number of processes.

    python examples/ddp.py
    torchrun --nproc-per-node 2 examples/ddp.py
    torchrun --nproc-per-node 2 examples/ddp.py --micro-batch 8

All three print the same losses. A rank gives the objective its own rows; it returns the rank's
share, whose mean over the ranks is the loss. DDP takes the mean of the gradients over the ranks:
exactly the loss's gradient. The objective learns a temperature, so it is wrapped as well.
"""

import argparse
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xmodal.objectives import InfoNCE, mean_of_shares
from xmodal.training.gradient_cache import cached_backward

BATCH, STEPS = 64, 20  # pairs of all ranks together


class TwoTowers(nn.Module):
    """An encoder of images and one of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(32, 16), nn.Linear(24, 16)

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (pairs, 16) of length 1."""
        return F.normalize(self.image(images), dim=1), F.normalize(self.text(texts), dim=1)


parser = argparse.ArgumentParser()
parser.add_argument("--micro-batch", type=int, default=BATCH, help="rows in memory at a time")
micro_batch, rank, ranks = parser.parse_args().micro_batch, 0, 1
torch.manual_seed(0)
model, objective = TwoTowers(), InfoNCE(scale=14.3)
if "RANK" in os.environ:  # started by torchrun
    dist.init_process_group("gloo")  # or nccl, with the model and the batches on GPUs
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model, objective = DistributedDataParallel(model), DistributedDataParallel(objective)
optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=1e-2)
concepts = torch.randn(BATCH, 8) @ torch.randn(8, 56)  # image and text show a part of it each
for step in range(STEPS):
    images, texts = (concepts + torch.randn(BATCH, 56))[rank::ranks].split([32, 24], dim=1)
    optimizer.zero_grad()
    parts = list(zip(images.split(micro_batch), texts.split(micro_batch), strict=True))
    loss = mean_of_shares(cached_backward(model, objective, parts))
    optimizer.step()
    if rank == 0:
        print(f"step {step}: {loss:.5f}")
if dist.is_initialized():
    print(end="", flush=True)
    os._exit(0)  # a thread of gloo may still free a tensor, and would abort Python's own end

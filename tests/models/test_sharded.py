"""What the models give, and learn, when ZeRO 3 gathers the weights of what is called alone."""

import os

import torch
from torch import Tensor, nn

from tests.processes import on_ranks
from xmodal.distributed.collectives import rank
from xmodal.models.composition import GatedResidual
from xmodal.models.encoder import Encoder
from xmodal.models.heads.mlp import Mlp
from xmodal.models.images.timm_model import TimmEncoder
from xmodal.models.late_fusion import Concatenation, LateFusion, SenseChoice
from xmodal.models.metric_network import MetricNetwork
from xmodal.models.pie_net import PieNet, PieTower
from xmodal.models.texts.gru import Gru

RANKS = 2  # on one alone nothing is let go of
DIM, SIZE = 8, 160
PIXELS = torch.randint(
    0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
TOKENS = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 1, 8, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)


class Models(nn.Module):
    """An encoder some of whose weights no layer holds (a ViT's positions), and the other models."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = tower(TimmEncoder(name="test_vit", size=SIZE))
        self.words = tower(Gru(9, word=6, width=5, layers=2, bidirectional=True))
        self.metric = MetricNetwork(DIM, (7, 6), interactions=True)
        self.composition = GatedResidual(DIM)
        choice = SenseChoice(DIM, DIM, 0.5, hard=False)
        self.fusion = LateFusion(choice, Concatenation(DIM, DIM), DIM)

    def compute(self) -> Tensor:
        images, _ = self.image(PIXELS)
        words, residuals = self.words(TOKENS, MASK)
        sides = (images[:, 1], words[:, 0] + residuals[:, 1])
        left_out = torch.tensor([True, False, False])
        values = (
            self.metric.all_pairs(*sides),
            self.metric(*sides),
            self.composition(*sides) / 10,
            *self.fusion(images[:, 1], words, left_out),
        )
        return torch.cat([one.flatten() for one in values])

    def loss(self) -> Tensor:
        return 30 * self.compute().square().sum()

    def forward(self, name: str) -> Tensor:
        values: Tensor = getattr(self, name)()
        return values


def tower(encoder: Encoder) -> PieTower:
    head = Mlp(encoder.features, DIM)
    return PieTower(encoder, head, PieNet(encoder.local_features, DIM, 2))


def sharded() -> tuple[list[Tensor], dict[str, Tensor]]:
    """Values before and after a step of descent at a rate of 1, and how far weights moved."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # nothing to compile
    os.environ["LOCAL_RANK"] = str(rank())
    models = Models()
    start = {name: value.clone() for name, value in models.named_parameters()}
    config = {
        "train_batch_size": RANKS,
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    sgd = torch.optim.SGD(models.parameters(), 1.0)
    engine, *_ = deepspeed.initialize(model=models, optimizer=sgd, config=config)
    with torch.no_grad():
        before = engine.module.compute()  # by no call of the whole: as evaluation encodes
    loss = engine("loss")
    engine.backward(loss)
    engine.step()
    with torch.no_grad():
        after = engine.module("compute")
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        moved = {n: start[n] - p.detach() for n, p in engine.module.named_parameters()}
    return [before, loss.detach(), after], moved


def test_sharded_weights_give_the_same_values_and_gradients() -> None:
    (before, loss, after), moved = on_ranks(RANKS, sharded)[0]
    models = Models()
    torch.testing.assert_close(before, models.compute(), rtol=1e-4, atol=1e-5)
    expected = models.loss()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-4, atol=1e-5)
    expected.backward()
    for name, parameter in models.named_parameters():
        assert parameter.grad is not None, name
        tolerance = 1e-3 * float(parameter.grad.abs().max()) + 1e-5
        torch.testing.assert_close(moved[name], parameter.grad, rtol=0, atol=tolerance)
        with torch.no_grad():
            parameter -= moved[name]
    torch.testing.assert_close(after, models.compute(), rtol=1e-3, atol=1e-3)

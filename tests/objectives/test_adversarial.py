import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.processes import on_ranks
from xmodal.distributed.collectives import rank
from xmodal.models.adversary import ModalityClassifier
from xmodal.models.critics import PriorDiscriminator
from xmodal.objectives.adversarial import ModalityAdversary, ModalityClassification
from xmodal.objectives.frozen import frozen_parameters
from xmodal.objectives.prior import PriorMatching, _uniform
from xmodal.objectives.warmup import adversarial_ramp

VARIANTS = ["reversal", "flipped", "confusion"]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def gradients(value: Tensor, *leaves: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if gradient is None else gradient
        for gradient, leaf in zip(found, leaves, strict=True)
    ]


def test_what_is_held_fixed_passes_gradients_and_takes_none() -> None:
    layer = nn.Linear(3, 1)
    layer.bias.requires_grad_(False)
    x = torch.randn(2, 3, requires_grad=True)
    with frozen_parameters(layer):
        value = layer(x).sum()
    value.backward()
    assert x.grad.any()
    assert layer.weight.grad is None
    with pytest.raises(ZeroDivisionError), frozen_parameters(layer):
        raise ZeroDivisionError
    assert [p.requires_grad for p in layer.parameters()] == [True, False]


def adversary(encoders: str) -> ModalityAdversary:
    return ModalityAdversary(encoders=encoders)


def two_sides() -> tuple[ModalityClassifier, Tensor, Tensor]:
    torch.manual_seed(0)
    classifier = ModalityClassifier(4, (6, 5), dropout=0.0).double()
    return classifier, drawn(5, 4).requires_grad_(), drawn(5, 4, seed=1).requires_grad_()


def classifier_loss(classifier: nn.Module, v: Tensor, t: Tensor) -> Tensor:
    classes = torch.tensor([0] * len(v) + [1] * len(t))
    return nn.functional.cross_entropy(classifier(torch.cat([v, t])), classes)


class Reversed(torch.autograd.Function):
    """A gradient reversal layer."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


def test_classification_and_reversal_are_one_pass_through_a_reversal_layer() -> None:
    classifier, v, t = two_sides()
    leaves = (*classifier.parameters(), v, t)
    ours = ModalityClassification()(v, t, classifier) + adversary("reversal")(v, t, classifier)
    layer = classifier_loss(classifier, Reversed.apply(v), Reversed.apply(t))
    for got, expected in zip(gradients(ours, *leaves), gradients(layer, *leaves), strict=True):
        assert expected.any()
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("encoders", VARIANTS)
def test_a_step_of_the_encoders_misleads_the_classifier(encoders: str) -> None:
    classifier, v, t = two_sides()
    # From where the classifier is right, so that confusion too leads away from there.
    for _ in range(100):
        cost = ModalityClassification()(v, t, classifier)
        trained = gradients(cost, *classifier.parameters())
        with torch.no_grad():
            for parameter, gradient in zip(classifier.parameters(), trained, strict=True):
                parameter -= gradient
    before = classifier_loss(classifier, v, t)
    assert before < 0.3
    dv, dt = gradients(adversary(encoders)(v, t, classifier), v, t)
    assert classifier_loss(classifier, v - 0.01 * dv, t - 0.01 * dt) > before


def test_the_ramp_is_that_of_the_paper() -> None:
    ramp = [adversarial_ramp(progress) for progress in (0, 0.2, 1)]
    assert ramp == pytest.approx([0.0, math.tanh(1), math.tanh(5)], rel=1e-12)


class FirstChannel(nn.Module):
    """Says image where the first channel is above zero, with a logit that great."""

    def forward(self, embeddings: Tensor) -> Tensor:
        return torch.stack([embeddings[:, 0], -embeddings[:, 0]], 1)


def accuracy() -> float:
    images, texts = torch.tensor([[1.0], [1.0], [-1.0], [1.0]]), torch.tensor([[-1.0], [-1.0]])
    loss = ModalityClassification()
    rows = slice(None) if rank() == 0 else slice(0, 0)
    loss(images[rows], texts[rows], FirstChannel())
    return loss.monitors["adversary_accuracy"].item()


def test_accuracy_is_that_of_both_sides_on_all_ranks() -> None:
    assert accuracy() == (3 / 4 + 1) / 2
    assert on_ranks(2, accuracy) == [accuracy()] * 2


def test_what_the_classifier_cannot_tell_costs_log_two() -> None:
    nothing, blind = torch.zeros(4, 1), FirstChannel()
    loss = ModalityClassification()
    assert loss(nothing, nothing, blind).item() == pytest.approx(math.log(2))
    assert loss.monitors["adversary_accuracy"] == 0.5
    for encoders, sign in (("reversal", -1), ("flipped", 1), ("confusion", 1)):
        value = adversary(encoders)(nothing, nothing, blind)
        assert value.item() == pytest.approx(sign * math.log(2))


def test_dropout_is_in_the_classifier_in_training() -> None:
    torch.manual_seed(0)
    classifier = ModalityClassifier(hidden=(8,), dropout=0.5)
    x = torch.randn(2, 1024)
    assert classifier(x).shape == (2, 2)
    assert not torch.equal(classifier(x), classifier(x))
    assert torch.equal(classifier.eval()(x), classifier(x))


def test_a_classifier_of_scaled_embeddings_is_one_of_longer_ones() -> None:
    torch.manual_seed(0)
    scaled, plain = ModalityClassifier(16), ModalityClassifier(16, scale=False)
    plain.load_state_dict(scaled.state_dict())
    x = torch.randn(3, 16)
    torch.testing.assert_close(scaled(x), plain(4 * x))


def test_the_penalty_is_the_squared_slope_of_the_log_odds() -> None:
    classifier = ModalityClassifier(5, scale=False).double()
    x = drawn(20_000, 5)
    plain, penalised = (ModalityClassification(penalty=p)(x, x, classifier) for p in (0, 3))
    weight = classifier.layers[0].weight
    expected = 3 / 2 * (weight[0] - weight[1]).square().sum() / 5
    torch.testing.assert_close(penalised - plain, expected, rtol=0.03, atol=0)


def gap_after_a_game(penalty: float) -> float:
    """Distance of two clouds that are shifted against a classifier: 1 at first."""
    torch.manual_seed(0)
    classifier = ModalityClassifier(8, scale=False)
    shift = nn.Parameter(torch.full((8,), 8**-0.5))
    loss, opposed = ModalityClassification(penalty=penalty), adversary("reversal")
    groups = [{"params": [shift]}, {"params": [*classifier.parameters()], "lr": 0.05}]
    optimiser = torch.optim.Adam(groups, lr=0.02)
    for step in range(300):
        images, texts = 0.3 * torch.randn(2, 64, 8)
        images = images + shift
        optimiser.zero_grad()
        value = loss(images, texts, classifier, step) + opposed(images, texts, classifier)
        value.backward()
        optimiser.step()
    return shift.detach().norm().item()


def test_a_penalised_classifier_lets_the_modalities_meet() -> None:
    assert gap_after_a_game(penalty=3.0) < 0.2
    assert gap_after_a_game(penalty=0.0) > 0.3


def matching(**given: float) -> PriorMatching:
    return PriorMatching(**given)


def test_the_discriminator_learns_and_the_encoder_follows_the_prior() -> None:
    torch.manual_seed(0)
    discriminator = PriorDiscriminator(1, (32, 16))
    embeddings = nn.Parameter(2 + 0.1 * torch.randn(256, 1))
    loss = matching(weight=1.0, penalty=0.1)
    optimiser = torch.optim.Adam([embeddings, *discriminator.parameters()], lr=0.02)
    before = embeddings.sigmoid().std().item()
    for step in range(300):
        optimiser.zero_grad()
        loss(embeddings, discriminator, seed=step).backward()
        optimiser.step()
    spread = embeddings.detach().sigmoid()
    assert before < 0.02
    assert spread.std() > 0.15  # that of the uniform distribution is 0.29
    assert abs(spread.mean() - 0.5) < 0.15


def test_encoders_and_discriminator_each_take_their_own_part() -> None:
    torch.manual_seed(0)
    discriminator = PriorDiscriminator(3, (6, 5)).double()
    x = drawn(5, 3).requires_grad_()
    leaves = (*discriminator.parameters(), x)
    none, some = (
        gradients(matching(weight=weight)(x, discriminator, 1), *leaves) for weight in (0, 2)
    )
    for without, with_encoders in zip(none[:-1], some[:-1], strict=True):
        torch.testing.assert_close(without, with_encoders)
    assert not none[-1].any()
    assert some[-1].any()


def test_the_prior_is_uniform_and_follows_the_seed() -> None:
    samples = _uniform(torch.zeros(20_000, 2), [20_000], seed=1)
    assert 0 <= samples.min() < 0.001
    assert 0.999 < samples.max() <= 1
    torch.testing.assert_close(samples.mean(0), torch.full((2,), 0.5), atol=0.01, rtol=0)
    assert torch.equal(samples, _uniform(torch.zeros(20_000, 2), [20_000], seed=1))
    assert not torch.equal(samples, _uniform(torch.zeros(20_000, 2), [20_000], seed=2))

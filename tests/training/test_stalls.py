"""Waits of a training step for its device: one, later, for the values that are logged."""

import traceback
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.launch.methods import CHANGES, IMAGE, RECIPES, STAGES, TEXT
from tests.pretended_device import NAME, PretendedDevice, to_device, values_of
from tests.processes import on_ranks
from xmodal.assembly.recipe import Recipe, read_recipe
from xmodal.components.config import Span
from xmodal.data.batch import Batch
from xmodal.methods.config import MethodConfig
from xmodal.methods.method import Method
from xmodal.objectives.config import ObjectiveConfig
from xmodal.training.clipping import clip_before_steps
from xmodal.training.config import StageConfig
from xmodal.training.ema import averages_of, keep_average
from xmodal.training.parts import parameter_groups, select_trained
from xmodal.training.timeline import Timeline
from xmodal.training.trainer import Trainer

BATCH, VOCABULARY, LENGTH = 8, 30, 6
CLIP = (
    "method.image={kind: timm, name: vit_tiny_patch16_224, size: 32, weights: random, options: "
    "{patch_size: 16, embed_dim: 16, depth: 1, num_heads: 2}}",
    "method.text={kind: transformer, width: 16, layers: 1, heads: 2}",
    "method.embedding=16",
)
CLIP_TOWERS = (
    "method.image={kind: vit, size: 32, patch: 16, width: 16, layers: 1, heads: 2, mlp: 32}",
    "method.text={kind: clip_text, width: 16, layers: 1, heads: 2, mlp: 32}",
    "method.embedding=16",
)
RECURRENT = (
    "method.image={kind: timm, name: test_resnet, size: 32, weights: random}",
    "method.text={kind: lstm, word: 8, width: 16, layers: 2, bidirectional: true, pooling: max}",
    "method.embedding=16",
)
BERT = (
    CLIP[0],
    "method.text={kind: transformers, name: bert, weights: random, settings: {model_type: bert, "
    f"vocab_size: {VOCABULARY}, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, "
    "intermediate_size: 32, hidden_dropout_prob: 0, attention_probs_dropout_prob: 0}}",
    CLIP[2],
)
OBJECTIVES = {
    "info_nce": "{kind: info_nce}",
    "same id": "{kind: info_nce, positives: same_id}",
    "bfloat16": "{kind: info_nce, matmul_dtype: bfloat16}",
    "sigmoid": "{kind: sigmoid}",
    "margin": "{kind: margin}",
    "global": "{kind: global_contrastive, rho: 6.5}",
    "semi-hard": "{kind: triplet, negatives: semi_hard, warmup: 0}",
    "warm-up": "{kind: triplet, negatives: hardest, warmup: 1}",
    **{one: f"{{kind: mutual_information, estimator: {one}}}" for one in ("jsd", "dv", "nwj")},
    **{one: f"{{kind: {one}}}" for one in ("circle", "multi_similarity", "smooth_ap")},
    **{one: f"{{kind: {one}}}" for one in ("soft_relevance", "supervised_contrastive")},
    **{one: f"{{kind: {one}, classes: 9}}" for one in ("norm_softmax", "proxy_anchor")},
    **{
        f"widths of {one}": f"{{kind: matryoshka, widths: [8, 16], objective: {{kind: {one}}}}}"
        for one in ("info_nce", "multi_similarity")
    },
}
EXTRA = (
    "data.train=[{url: shards, mined: table}]",
    "data.negatives={texts: 2, mined_images: 2}",
)
CASES: dict[str, tuple[str, tuple[str, ...], int]] = {
    **{
        f"clip, {name}": ("clip", (*CLIP, f"method.objective={one}"), 0)
        for name, one in OBJECTIVES.items()
    },
    "clip, queue of a momentum encoder": (
        "clip",
        (*CLIP, "method.queue={size: 12, start: 0, momentum: 0.9}"),
        0,
    ),
    "clip, queue": (
        "clip",
        (*CLIP, "method.queue={size: 12, start: 0}", "method.false_negatives={similarity: 0.9}"),
        0,
    ),
    **{
        f"{kind}, {stage.name}": (kind, words, number)
        for kind, words in CHANGES.items()
        for number, stage in enumerate(STAGES[kind])
    },
    "dim, both": ("dim", (*CHANGES["dim"], "method.global_critic=concatenate"), 0),
    "filip": ("filip", (*CLIP, "method.words=4"), 0),
    "distilled": ("flickr8k_distilled", (*CLIP, "method.teacher_embedding=12"), 0),
    "clip's own towers": ("clip", CLIP_TOWERS, 0),
    "lstm, batch normalisation": ("clip", RECURRENT, 0),
    "bert of transformers": ("clip", BERT, 0),
    **{
        f"{name}, extra items": (kind, (*words, *EXTRA), 0)
        for name, kind, words in (
            ("clip, info_nce", "clip", CLIP),
            ("clip, own", "clip", (*CLIP, "method.extra_negatives=own")),
            ("clip, semi-hard", "clip", (*CLIP, f"method.objective={OBJECTIVES['semi-hard']}")),
            *(
                (f"clip, {one}", "clip", (*CLIP, f"method.objective={OBJECTIVES[one]}"))
                for one in ("circle", "multi_similarity", "smooth_ap")
            ),
            ("vsepp", "vsepp", CHANGES["vsepp"]),
        )
    },
}
# How many positives the id of most pairs has: the number of limits that scores are compared with.
LARGEST_ID = ["aten._local_scalar_dense objectives/pairwise/positives.py:20"]
TWO_RANKS = (
    "clip, queue",
    "clip, queue of a momentum encoder",
    "mite, adversarial",
    "uncsm, joint",
    "ptf_simcm, main",
    "dim, main",
)


STEPS = [(case, BATCH) for case in CASES]
STEPS += [(case, 3) for case in CASES if not case.startswith("clip, ") or case == "clip, info_nce"]


class Engine:
    """What a step asks of DeepSpeed's engine, without its own waits."""

    def __init__(self, method: Method, stage: StageConfig) -> None:
        self.module, self.device = method, next(method.parameters()).device
        self.optimizer = stage.optimizer.build(parameter_groups(method, stage))
        for key in averages_of(stage, method):
            keep_average(self.optimizer, key)
        clip_before_steps(self.optimizer, method, stage.clip_norm)

    def __call__(self, compute: Any) -> Any:
        return self.module(compute)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None:
        pass

    def zero_optimization_stage(self) -> int:
        return 0

    def get_global_grad_norm(self) -> Tensor:
        norm: Tensor = self.optimizer._global_grad_norm
        return norm

    def step(self) -> None:
        self.gradients = {
            name: values_of(weight.grad)
            for name, weight in self.module.named_parameters()
            if weight.grad is not None
        }
        self.optimizer.step()
        self.optimizer.zero_grad()


def batch_of(method: Method, recipe: Recipe) -> Batch:
    """A batch of what the method reads; images and classes repeat, captions differ in length."""
    torch.manual_seed(0)
    spec, numbers = method.contents, torch.arange(BATCH)
    images, tokens = (
        torch.randint(256, (3, BATCH, 3, 32, 32), dtype=torch.uint8),
        torch.randint(VOCABULARY, (2, BATCH, LENGTH)),
    )
    masks = torch.arange(LENGTH) < torch.stack([numbers, numbers.flip(0)])[..., None] % LENGTH + 1
    batch = Batch(image_ids=numbers // 2)
    if recipe.method.image.reads_features:
        batch = replace(batch, image_features=torch.randn(BATCH, IMAGE))
        batch = replace(batch, text_features=torch.randn(BATCH, TEXT))
    else:
        batch = replace(batch, images=images[0])
        if spec.captions:
            batch = replace(batch, tokens=tokens[0], token_mask=masks[0])
    if recipe.data.negatives:
        batch = replace(
            batch,
            extra_tokens=torch.randint(VOCABULARY, (BATCH, 2, LENGTH)),
            extra_token_mask=masks.movedim(0, 1),
            text_ids=numbers,
            extra_text_ids=torch.stack([numbers + 2, numbers + 50], 1),
            extra_text_origins=torch.stack([numbers, numbers + 50], 1),
            extra_images=images[1:].movedim(0, 1),
            extra_image_ids=torch.stack([numbers + 2, numbers + 50], 1),
        )
    if spec.views == 2:
        batch = replace(batch, second_images=images[1])
    if spec.captions == 2:
        batch = replace(batch, second_tokens=tokens[1], second_token_mask=masks[1])
        batch = replace(batch, text_dropped=torch.stack([numbers % 3 == 0, numbers % 4 == 0], 1))
    if spec.labels:
        batch = replace(batch, labels=numbers % 3)
    if spec.teacher:
        taught = F.normalize(torch.randn(2, BATCH, spec.teacher), dim=2)
        batch = replace(batch, teacher_images=taught[0], teacher_texts=taught[1])
    if spec.numbers:
        batch = replace(batch, sample_numbers=numbers)
    if spec.composed:
        batch = replace(batch, targets=images[2], source_ids=numbers // 4)
    return batch


def trainer_of(stage: StageConfig, micro_batch: int) -> Any:
    """What `_step` asks of a trainer that trains one stage of ten steps."""
    stage = stage.model_copy(update={"length": Span("10 steps")})
    trainer: Any = object.__new__(Trainer)
    trainer.timeline = Timeline(
        [stage],
        batch_size=BATCH,
        epoch_samples=BATCH,
        evaluate_every=Span("0 steps"),
        checkpoint_every=Span("0 steps"),
    )
    trainer.training = SimpleNamespace(seed=0)
    trainer.progress = SimpleNamespace(step=3)
    trainer.dataset = SimpleNamespace(augmented=lambda batch: batch)
    trainer.micro_batch_size = micro_batch
    trainer.preemption = SimpleNamespace(asked=False)
    trainer.checkpointing = SimpleNamespace(is_written=lambda: False)
    return trainer


@dataclass(frozen=True)
class Taken:
    """A step: values, gradients, what the host waited for, what it read, what objectives drew."""

    values: dict[str, float]
    gradients: dict[str, Tensor]
    waits: list[str]
    reads: list[str]
    draws: list[str]


def take(case: str, micro_batch: int, *, on_device: bool, spoil: bool = False) -> Taken:
    """Take a step of a case, on the host or on the pretended device."""
    kind, words, number = CASES[case]
    recipe = read_recipe(kind, list(words), RECIPES)
    torch.manual_seed(0)
    method = recipe.method.build(vocabulary=VOCABULARY, bf16=False)
    stage = recipe.stages[number]
    select_trained(method, stage.train, stage.lock)
    method.begin_stage(tuple(stage.losses))
    method.make_room(BATCH)
    batch, device = batch_of(method, recipe), PretendedDevice()
    with device if on_device else nullcontext():
        if on_device:
            to_device(method)
            batch = batch.to(torch.device(NAME, 0))
        if spoil:
            method.register_forward_pre_hook(wait)
        trainer = trainer_of(stage, micro_batch)
        engine = Engine(method, stage)
        report = trainer._step(engine, batch, trainer.timeline.stages[0])
    report.read(1)
    return Taken(report.values, engine.gradients, device.waits, device.reads, device.draws)


def wait(method: Method, _: object) -> None:
    """Look at a value of the device, as code of a method must not."""
    next(method.parameters()).sum().item()


def take_all() -> dict[str, Taken | str]:
    """Take a step of every case by micro-batches and whole; a traceback where that fails."""
    found: dict[str, Taken | str] = {}
    for case, micro_batch in STEPS:
        try:
            found[f"{case}, {micro_batch}"] = take(case, micro_batch, on_device=True)
        except Exception:
            found[f"{case}, {micro_batch}"] = traceback.format_exc()
    return found


@pytest.fixture(scope="module")
def taken() -> dict[str, Taken | str]:
    """Steps on the pretended device, which lives in a process of its own."""
    return on_ranks(1, take_all)[0]


@pytest.mark.parametrize(("case", "micro_batch"), STEPS)
def test_a_step_waits_for_nothing_and_is_read_once(
    case: str, micro_batch: int, taken: dict[str, Taken | str]
) -> None:
    found = taken[f"{case}, {micro_batch}"]
    assert isinstance(found, Taken), found
    assert found.waits == (LARGEST_ID if "smooth_ap" in case else [])
    assert not found.draws
    assert len(found.reads) == 1
    expected = take(case, micro_batch, on_device=False)
    assert found.values == pytest.approx(expected.values, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(found.gradients, expected.gradients, rtol=1e-3, atol=1e-5)


def test_every_objective_and_method_takes_a_step_here() -> None:
    recipes = [read_recipe(kind, list(words), RECIPES) for kind, words, _ in CASES.values()]
    methods = [one.method for one in recipes]
    objectives = [getattr(one, "objective", None) for one in methods]
    kinds = {one.kind for one in objectives if isinstance(one, ObjectiveConfig)}
    assert kinds == set(ObjectiveConfig.kinds)
    assert {one.kind for one in methods} == set(MethodConfig.kinds)


@pytest.mark.parametrize("case", TWO_RANKS)
def test_ranks_exchange_what_they_need_without_waiting(case: str) -> None:
    for found in on_ranks(2, partial(take, on_device=True), case, 3):
        assert found.waits == []
        assert len(found.reads) == 1


def draw_on_device() -> list[str]:
    """Draw as an objective must not: another device draws other numbers."""
    source, drawn = "lambda like: torch.rand(3, device=like.device)", PretendedDevice()
    draw = eval(compile(source, "/xmodal/objectives/one.py", "eval"), {"torch": torch})
    with drawn:
        draw(torch.ones(3).to(torch.device(NAME, 0)))
    return drawn.draws


def test_a_draw_is_seen() -> None:
    ((drawn,),) = on_ranks(1, draw_on_device)
    assert "aten.rand" in drawn


def test_a_wait_is_seen() -> None:
    (found,) = on_ranks(1, partial(take, on_device=True, spoil=True), *STEPS[0])
    assert "_local_scalar_dense" in found.waits[0]

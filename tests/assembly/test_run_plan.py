"""A plan equals a count by hand, and what a process needs; what would fail at step 1 fails here."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from tests.commands import ROOT
from xmodal.assembly.plan_fit import fit
from xmodal.assembly.plan_table import as_json
from xmodal.assembly.recipe import read_recipe
from xmodal.assembly.run_plan import Hardware, Planner, RunPlan
from xmodal.commands.plan import read_arguments
from xmodal.costs.hardware import GPU, named
from xmodal.errors import UserError

H100 = named("h100-80")
# A training whose memory is far above a process's noise, and whose step takes a second.
SMALL = (
    "method.image.name=vit_small_patch32_224",
    "method.text.width=256",
    "method.text.layers=4",
    "method.text.context=32",
    "data.batch_size=32",
)


def plan_of(name: str, *overrides: str, ranks: int = 64, gpu: bool = True) -> RunPlan:
    """The plan of a recipe on ranks."""
    hardware = Hardware(ranks, H100 if gpu else None)
    planner = Planner(read_recipe(name, overrides), hardware, samples=400_000_000)
    return planner.plan(planner.recipe)


def test_what_an_objective_keeps_of_each_sample_is_planned_for() -> None:
    plain, keeping = (
        plan_of("quickstart", f"method.objective.kind={kind}", ranks=1, gpu=False).stages[0]
        for kind in ("info_nce", "global_contrastive")
    )
    for bytes_of in (lambda one: one.memory["weights"], lambda one: one.checkpoint):
        assert bytes_of(keeping) - bytes_of(plain) == pytest.approx(8 * 400_000_000, abs=100)


def test_an_objective_that_looks_at_ids_is_planned() -> None:
    stage = plan_of("quickstart", "method.objective.kind=smooth_ap", ranks=2, gpu=False).stages[0]
    assert stage.memory["objective"] > 0


def test_extra_texts_and_images_are_planned() -> None:
    mined = ("data.train=[{url: shards, mined: table}]", "data.negatives.mined_images=1")
    plain, texts, images = (
        plan_of("quickstart", *more, ranks=2, gpu=False).stages[0].flops.forward
        for more in ((), ("data.negatives.texts=2",), mined)
    )
    assert texts["text"] == pytest.approx(3 * plain["text"])
    assert texts["image"] == plain["image"]
    assert images["image"] == pytest.approx(2 * plain["image"])
    assert images["text"] == plain["text"]


@pytest.fixture(scope="module")
def plan() -> RunPlan:
    """The recipe clip, ViT-B/32 and a text transformer of width 512, on 64 GPUs."""
    return plan_of("clip")


class TestHandCountOfClip:
    """The plan of clip, counted by hand."""

    ranks, batch, dim = 64, 4096, 512
    share = batch // ranks
    image_width, patches, pixels = 768, 49, 3 * 32 * 32
    text_width, words, vocabulary = 512, 64, 32768
    layers = 12

    @property
    def vectors(self) -> int:
        """Parameters that do not decay: biases, norms, the class token, the temperature."""
        of_blocks = sum(
            self.layers * (9 + 4) * width + 2 * width
            for width in (self.image_width, self.text_width)
        )
        return of_blocks + self.image_width + 1

    @property
    def matrices(self) -> int:
        """Parameters of two dimensions at least."""
        image, text = self.image_width, self.text_width
        blocks = sum(self.layers * 12 * width * width for width in (image, text))
        embeddings = self.pixels * image + image + (self.patches + 1) * image
        embeddings += (self.vocabulary + self.words) * text
        return blocks + embeddings + (image + text) * self.dim

    @property
    def parameters(self) -> int:
        return self.matrices + self.vectors

    @property
    def partition(self) -> int:
        """Bytes of a number for each parameter of a rank."""
        return 4 * sum(-(-one // self.ranks) for one in (self.matrices, self.vectors))

    def forward(self, width: int, length: int) -> int:
        """FLOPs of a sample in the blocks."""
        return self.layers * (2 * 12 * width * width * length + 4 * length * length * width)

    def test_parameters(self, plan: RunPlan) -> None:
        assert plan.parameters == plan.stages[0].trained == self.parameters

    def test_flops(self, plan: RunPlan) -> None:
        image = self.forward(self.image_width, self.patches + 1)
        pixels = 2 * self.patches * self.pixels * self.image_width  # which have no gradient
        text = self.forward(self.text_width, self.words)
        heads = 2 * (self.image_width + self.text_width) * self.dim
        objective = 2 * self.batch**2 * self.dim
        flops = plan.stages[0].flops
        by_hand = self.batch * (3 * (image + text + heads) + 2 * pixels) + 3 * objective
        assert flops.total == pytest.approx(by_hand, rel=0.01)
        assert plan.stages[0].computed == flops.total

    def test_memory_of_weights_gradients_and_optimiser(self, plan: RunPlan) -> None:
        most = plan.stages[0].most
        assert not most.get("other")
        normalisation = 2 * 3 * 4  # mean and deviation of pixels
        assert most["weights"] == 4 * self.parameters + normalisation
        # ZeRO 1: all gradients, and this rank's share of their mean, which is copied once.
        assert most["gradients"] == 4 * self.parameters + 2 * self.partition
        # float32 weights and two moments of this rank's share; a step count of each group.
        assert most["optimizer"] == 3 * self.partition + 2 * 4

    def test_bytes_sent(self, plan: RunPlan) -> None:
        sent, others = plan.stages[0].sent, self.ranks - 1
        weights = 4 * self.parameters * others / self.ranks
        assert sent["gradients"] == round(2 * weights)
        assert sent["weights"] == round(weights)
        texts, ids = 2 * self.share * self.dim * 4 * others, self.share * 8 * others
        columns = 3 * 2 * self.batch * 4 * others // self.ranks
        temperature = 2 * 4 * others // self.ranks
        assert sent["objective"] == texts + ids + columns + temperature

    def test_steps_time_and_checkpoint(self, plan: RunPlan) -> None:
        (stage,) = plan.stages
        assert stage.steps == 32 * 400_000_000 // self.batch
        assert stage.time is not None
        assert H100 is not None
        rate = 0.4 * H100.peak["bf16"] * self.ranks
        assert stage.time.computing == pytest.approx(stage.flops.total / rate)
        assert plan.seconds == stage.time.total * stage.steps
        assert stage.checkpoint == pytest.approx(4 * 4 * self.parameters, rel=0.001)

    def test_what_computes_again_to_save_memory(self, plan: RunPlan) -> None:
        micro = plan_of("clip", "data.micro_batch_size=16")
        (few,), (many,) = plan.stages, micro.stages
        encoders = few.flops.forward["image"] + few.flops.forward["text"]
        assert many.computed == pytest.approx(few.flops.total + 3 / 4 * encoders)
        assert many.memory["activations"] < 0.4 * few.memory["activations"]

    def test_blocks_that_are_computed_again_are_no_model_flops(self, plan: RunPlan) -> None:
        (stage,) = plan_of("clip", "training.checkpoint_activations=blocks").stages
        flops = plan.stages[0].flops
        assert stage.flops.total == pytest.approx(flops.total)
        again = flops.forward["image"] + flops.forward["text"]
        assert stage.computed == pytest.approx(flops.total + again)

    def test_weights_in_bf16_take_half(self) -> None:
        words = ("training.zero=2", "training.precision=bf16_weights")
        (full,), (half,) = plan_of("clip", words[0]).stages, plan_of("clip", *words).stages
        assert half.most["weights"] == full.most["weights"] / 2
        assert half.sent["weights"] == full.sent["weights"] / 2
        assert half.sent["gradients"] == full.sent["gradients"]
        assert full.checkpoint - half.checkpoint == pytest.approx(2 * self.parameters, rel=1e-3)
        assert half.memory["activations"] < full.memory["activations"]

    def test_what_is_offloaded_is_in_the_host_s_memory(self) -> None:
        plan = plan_of("clip", "training.zero={stage: 3, offload_optimizer: cpu}")
        (stage,) = plan.stages
        assert "optimizer" not in stage.memory
        # Two moments, float32 weights and gradients of this rank's share.
        assert stage.on_host == pytest.approx(4 * self.partition, rel=1e-3)
        assert any("Not in the time: what is offloaded" in line for line in plan.lines)
        zero = "training.zero={stage: 3, offload_optimizer: cpu, offload_parameters: cpu}"
        (both,) = plan_of("clip", zero).stages
        gone = stage.memory["weights"] - both.memory["weights"]
        assert gone == both.on_host - stage.on_host
        assert gone == pytest.approx(4 * self.matrices / self.ranks, rel=0.01)

    def test_what_is_offloaded_to_a_disk_is_there(self) -> None:
        disk, zero = "{device: nvme, path: /local}", "training.zero={{stage: 3, {}}}"
        words = zero.format(f"offload_parameters: {disk}, offload_optimizer: {disk}")
        (stage,) = plan_of("clip", words).stages
        assert "weights" in stage.memory
        # Weights, and two moments and float32 weights of what a rank steps.
        weights, state = 4 * self.matrices / self.ranks, 3 * self.partition
        assert stage.on_disk == pytest.approx(weights + state, rel=0.01)

    def test_a_second_copy_of_weights_is_planned_for(self) -> None:
        (stage,) = plan_of("clip", "training.zero={stage: 3, secondary_partition: 8}").stages
        copy = stage.memory["second copy of weights"]
        assert copy == pytest.approx(4 * self.matrices / 8, rel=0.01)


def test_a_step_of_little_computing_waits_for_its_launches() -> None:
    time = plan_of("uncsm", ranks=8).stages[0].time
    assert time is not None
    assert time.bottleneck == "launching of kernels"
    assert time.total >= time.launching > 10 * time.computing
    compiled = plan_of("clip", *TINY, "training.compile=true", ranks=8)
    assert compiled.stages[0].time.launching == 0
    assert any("Not in the time: the launching" in line for line in compiled.lines)


def test_recurrent_networks_and_weights_of_a_hub_are_planned_without_either() -> None:
    plan = plan_of("vsepp", "method.image.name=resnet18", "method.image.size=64", ranks=8)
    assert all(stage.flops.total > 0 for stage in plan.stages)


def test_a_plan_is_json(plan: RunPlan) -> None:
    assert json.loads(json.dumps(as_json(plan, {"training.zero": 2})))["gpus"] == 64


def planner_of(gpu: GPU | None, *overrides: str, ranks: int = 8) -> Planner:
    """The planner of the recipe clip on some GPUs."""
    return Planner(read_recipe("clip", overrides), Hardware(ranks, gpu), 10**6)


def gpu_of(gigabytes: float) -> GPU:
    """An H100 of less memory."""
    assert H100 is not None
    return replace(H100, memory=gigabytes * 1e9)


TINY = ("method.image.name=test_vit", "method.image.size=160", "method.text.layers=2")


def test_fit_changes_nothing_where_all_fits() -> None:
    assert fit(planner_of(gpu_of(80), *TINY))[1] == {}


def test_fit_finds_what_fits_and_gives_its_keys() -> None:
    planner = planner_of(gpu_of(2.6), *TINY)
    assert not planner.plan(planner.recipe).fits
    plan, changes = fit(planner)
    assert plan.fits
    added = [f"{key}={value}" for key, value in changes.items()]
    again = planner_of(gpu_of(2.6), *TINY, *added)
    assert again.plan(again.recipe).memory == plan.memory


def test_fit_keeps_the_options_of_zero() -> None:
    words = (*TINY, "training.zero={stage: 1, bucket_size: 1000, offload_optimizer: cpu}")
    plan, changes = fit(planner_of(gpu_of(2.4), *words))
    added = [f"{key}={value}" for key, value in changes.items()]
    again = planner_of(gpu_of(2.4), *words, *added).recipe
    zero = again.training.zero
    assert zero == plan.recipe.training.zero
    assert zero.bucket_size == 1000
    assert zero.offload_optimizer
    assert zero.stage


def test_what_fits_nowhere_is_one_line() -> None:
    with pytest.raises(UserError, match="nothing fits"):
        fit(planner_of(gpu_of(1.6), *TINY, "data.batch_size=64"))


def test_a_precision_that_a_gpu_has_not_is_found() -> None:
    with pytest.raises(UserError, match=r"precision=auto: t4 computes no bf16; use fp32"):
        planner_of(named("t4"), *TINY)


@pytest.mark.parametrize(
    ("overrides", "ranks", "message"),
    [
        (["data.batch_size=1000"], 512, "512 ranks do not divide data.batch_size=1000; nearest"),
        (["data.micro_batch_size=48"], 64, "does not divide data.batch_size"),
        (["training.zero=1", "stages.0.optimizer={kind: timm, name: muon}"], 8, "whole matrices"),
        (["stages.0.train=[image.hed]"], 8, "is no part of the method"),
    ],
)
def test_mistakes_are_found(overrides: list[str], ranks: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_of("clip", *TINY, *overrides, ranks=ranks)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "--gpu",
            "rtx-409",
            r"^unknown GPU rtx-409 \(did you mean rtx-4090\?\); known: cpu, ",
        ),
        ("--gpu", "h100-81", r"^unknown GPU h100-81 \(did you mean h100-80\?\); known: cpu, "),
        ("--gpu", "a100", "^--gpu a100 may be a100-40 or a100-80; name one of them$"),
        ("--gpus", "two", "argument --gpus: 'two' is not a whole number of 1 or more; see: "),
        ("--samples", "-4", "argument --samples: '-4' is not a whole number of 1 or more; see: "),
        ("--network", "fast", "argument --network: 'fast' is not a number above 0; see: "),
        ("--mfu", "nan", "argument --mfu: 'nan' is not a number above 0; see: "),
        ("--mfu", "40", "argument --mfu: 40 is more than 1; see: "),
    ],
)
def test_wrong_options_are_one_line(option: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_arguments(["clip", "--gpus", "2", "--gpu", "cpu", option, value])


def test_what_would_fail_at_the_first_step_fails_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def loss(self: object, x: torch.Tensor, y: torch.Tensor, _: object) -> torch.Tensor:
        return (x @ y.T + torch.zeros(64, 65)).sum()

    monkeypatch.setattr("xmodal.objectives.InfoNCE.forward", loss)
    with pytest.raises(UserError, match=r"first step would fail on 64 ranks: .*test_run_plan.py"):
        plan_of("clip", *TINY)


PEAKS = [
    ("1", "8"),
    *(
        pytest.param(zero, size, marks=pytest.mark.slow)
        for zero in "0123"
        for size in ("null", "16")
    ),
]


@pytest.mark.parametrize(("zero", "micro_batch"), PEAKS)
def test_memory_is_what_a_process_peaks_at(zero: str, micro_batch: str) -> None:
    assert_peaks(*SMALL, f"training.zero={zero}", f"data.micro_batch_size={micro_batch}")


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_memory_of_weights_in_bf16_is_what_a_process_peaks_at(zero: int) -> None:
    assert_peaks(*SMALL, f"training.zero={zero}", "training.precision=bf16_weights")


def assert_peaks(*words: str) -> None:
    planned = plan_of("clip", *words, ranks=1, gpu=False).memory
    # By default, glibc keeps more and more of what is freed.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.assembly.step_process", "clip", *words]
    answer = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=True
    )
    peak = int(answer.stdout.splitlines()[-1])
    assert planned == pytest.approx(peak, rel=0.15)

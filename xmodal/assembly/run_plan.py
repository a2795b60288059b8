"""Plan of a run on hardware that is not at hand: whether it fits, what it costs, what limits it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from xmodal.activity import activity
from xmodal.assembly.build import first_method, keep_architecture
from xmodal.assembly.checks import (
    check_batch_norm,
    check_method,
    check_run,
    check_shards,
    check_sizes,
)
from xmodal.assembly.data import Shards, data_sets, epoch_samples, open_shards
from xmodal.assembly.example_batch import example_batch, expected_samples
from xmodal.assembly.first_step import FirstStep, prepare, rehearse
from xmodal.assembly.recipe import Recipe
from xmodal.assembly.text_tower import with_text_tower
from xmodal.costs.communication import sent_by_engine
from xmodal.costs.count import encoder_tensors
from xmodal.costs.flops import Flops, StepFlops
from xmodal.costs.hardware import GPU
from xmodal.costs.step_time import StepTime, step_time
from xmodal.data.sample_spec import SampleSpec, infer_sample_spec
from xmodal.errors import UserError
from xmodal.methods.method import Method

RESERVED = 1_500_000_000  # bytes of CUDA's context, its libraries and NCCL on a GPU; assumed
USABLE = 0.92  # share of a GPU's memory: the rest lies in pieces between tensors; assumed
LAUNCH = 10e-6  # seconds in which the host launches an operation; assumed
DECODED = 750  # images a second of a loading process (docs/results.md)


@dataclass(frozen=True)
class Hardware:
    """Ranks that a run is planned for, and what limits them."""

    ranks: int
    gpu: GPU | None = None  # of each rank; None: ranks on CPUs, whose limits are not known
    per_node: int = 8
    network: float = 50e9  # bytes a second of a GPU to other nodes
    mfu: float = 0.4  # share of a GPU's peak that computing reaches
    storage: float | None = None  # bytes a second for all ranks together; None: not known

    @property
    def link(self) -> float:
        """Bytes a second that a GPU sends, on the slowest way to another one."""
        assert self.gpu is not None
        return self.gpu.link if self.ranks <= self.per_node else min(self.gpu.link, self.network)


@dataclass(frozen=True)
class DataSize:
    """Samples of an epoch and mean bytes of one, where they are known, and what one holds."""

    samples: int | None
    sample_bytes: float | None
    spec: SampleSpec


@dataclass(frozen=True)
class StagePlan:
    """A stage of a run: what its steps take of each rank."""

    name: str
    steps: int | None
    trained: int  # numbers
    flops: Flops  # of the batch
    computed: float  # FLOPs of the batch with what is computed twice
    memory: Mapping[str, int]  # bytes of a rank in its fullest moment, by what they hold
    most: Mapping[str, int]  # bytes of each at most, in moments of its own
    sent: Mapping[str, int]  # bytes of a rank by what for
    checkpoint: int  # bytes, of all ranks together
    on_host: int  # bytes of a rank in the host's memory, of what is offloaded
    on_disk: int  # bytes of a rank on disks, of what is offloaded
    time: StepTime | None

    @property
    def seconds(self) -> float | None:
        """Time of the stage."""
        return self.time.total * self.steps if self.time and self.steps is not None else None


@dataclass(frozen=True)
class RunPlan:
    """Plan of a run, and lines about what could not be known."""

    recipe: Recipe
    hardware: Hardware
    data: DataSize
    parameters: int
    stages: Sequence[StagePlan]
    lines: Sequence[str]

    @property
    def memory(self) -> int:
        """Bytes of a rank in its fullest moment."""
        return max(sum(one.memory.values()) for one in self.stages)

    @property
    def usable(self) -> float:
        """Bytes of a GPU that tensors can take; without bound where it is not known."""
        return USABLE * self.hardware.gpu.memory if self.hardware.gpu else math.inf

    @property
    def fits(self) -> bool:
        """True where all stages fit into memory."""
        return self.memory <= self.usable

    @property
    def seconds(self) -> float | None:
        """Time of all steps."""
        parts = [one.seconds for one in self.stages]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None


class Planner:
    """A recipe and some hardware: what is checked and counted once for plans of its variants.

    `samples` and `sample_bytes` describe shards that are not at hand. Raises `UserError` for all
    mistakes that a run would find before its first step.
    """

    def __init__(
        self,
        recipe: Recipe,
        hardware: Hardware,
        samples: int | None = None,
        sample_bytes: float | None = None,
    ) -> None:
        self.recipe, self.hardware = with_text_tower(recipe), hardware
        check_sizes(self.recipe, hardware.ranks)
        if hardware.gpu:
            peak(hardware.gpu, recipe.training.precision)
        self.device = torch.device("cuda" if hardware.gpu else "cpu")
        self.folder = TemporaryDirectory(prefix="xmodal-plan-")  # with architectures
        keep_architecture(self.recipe.method, Path(self.folder.name))
        self.lines: list[str] = []
        method = self.method(self.recipe)
        shards = self._shards(reports=samples is None)
        self._check(method, shards)
        self.data = _data_size(self.recipe, shards, method, samples, sample_bytes)
        self.parameters = sum(one.numel() for one in method.parameters())
        self.counts: dict[int, tuple[int, Flops]] = {}  # by stage: trained numbers, and FLOPs

    def method(self, recipe: Recipe) -> Method:
        """Return the method of a recipe without values: no weights are read or drawn."""
        with torch.device("meta"):
            return first_method(recipe, self.device, of_run=Path(self.folder.name))

    def _shards(self, *, reports: bool) -> Shards | None:
        try:
            return open_shards(self.recipe)
        except UserError as error:
            if reports:
                self.lines.append(f"Steps are not known: {error}, or give --samples")
            return None

    def _check(self, method: Method, shards: Shards | None) -> None:
        recipe, ranks = self.recipe, self.hardware.ranks
        if shards is not None:
            check_shards(recipe, shards, ranks)
            check_run(recipe, shards, method, ranks)
        else:
            check_method(recipe, method)
            check_batch_norm(recipe, method, ranks)

    def _count(self, number: int) -> tuple[int, Flops]:
        """Return the trained numbers of a stage and its FLOPs."""
        if number not in self.counts:
            method, data = self.method(self.recipe), self.recipe.data
            # Model FLOPs are those of blocks that compute nothing again.
            training = self.recipe.training.model_copy(update={"checkpoint_activations": "none"})
            plain = self.recipe.model_copy(update={"training": training})
            prepare(method, plain, plain.stages[number], self.hardware.ranks)
            trained = sum(one.numel() for one in method.parameters() if one.requires_grad)
            step = StepFlops(_with_heads(method))
            # Libraries look at the values of other tensors without values.
            with FakeTensorMode(allow_non_fake_inputs=True):
                batch = example_batch(self.recipe, method.contents, self.data.spec, 2)
                self.counts[number] = trained, step.of(batch, data.batch_size)
        return self.counts[number]

    def plan(self, recipe: Recipe) -> RunPlan:
        """Return the plan of the recipe, or of one with other micro-batches or engine settings."""
        steps: list[int | None] = [None] * len(recipe.stages)
        if self.data.samples:
            steps = [one.end - one.start for one in recipe.timeline(self.data.samples).stages]
        stages = []
        for number, count in enumerate(steps):
            with activity(f"taking the first step of stage {recipe.stages[number].name}"):
                stages.append(self._stage(recipe, number, count))
        lines = [*self.lines, *_not_counted(recipe)]
        return RunPlan(recipe, self.hardware, self.data, self.parameters, stages, lines)

    def _stage(self, recipe: Recipe, number: int, steps: int | None) -> StagePlan:
        stage, ranks, on_gpus = recipe.stages[number], self.hardware.ranks, bool(self.hardware.gpu)
        method = self.method(recipe)
        method.make_room(self.data.samples or 1)
        step = rehearse(method, recipe, stage, self.data.spec, ranks, on_gpus=on_gpus)
        trained, flops = self._count(number)
        sent = self._sent(recipe, number) | {"objective": sum(step.sent.values())}
        return StagePlan(
            stage.name,
            steps,
            trained,
            flops,
            computed_flops(recipe, flops, ranks),
            step.memory | ({"CUDA and NCCL (assumed)": RESERVED} if on_gpus else {}),
            step.most,
            sent,
            step.checkpoint,
            step.on_host,
            step.on_disk,
            self._time(recipe, number, sent, step),
        )

    def estimate(self, recipe: Recipe) -> float:
        """Return about the seconds of a step of each stage, added up, without taking one."""
        numbers = range(len(recipe.stages))
        times = [self._time(recipe, number, self._sent(recipe, number)) for number in numbers]
        return sum(time.total for time in times if time)

    def _sent(self, recipe: Recipe, number: int) -> dict[str, int]:
        return sent_by_engine(
            recipe.training.zero.stage,
            self.hardware.ranks,
            trained=self._count(number)[0],
            weights=self.parameters,
            gradient_bytes=2 if recipe.training.communication == "bf16" else 4,
            weight_bytes=2 if recipe.training.precision == "bf16_weights" else 4,
            passes=num_micro_batches(recipe, self.hardware.ranks),
        )

    def _time(
        self,
        recipe: Recipe,
        number: int,
        sent: Mapping[str, int],
        step: FirstStep | None = None,
    ) -> StepTime | None:
        """Return the time of a step, or None where the hardware is not known."""
        hardware, data = self.hardware, recipe.data
        if hardware.gpu is None:
            return None
        loaders = max(1, data.workers) * hardware.ranks
        read = self.data.sample_bytes if hardware.storage else None
        return step_time(
            flops=computed_flops(recipe, self._count(number)[1], hardware.ranks) / hardware.ranks,
            rate=hardware.mfu * peak(hardware.gpu, recipe.training.precision),
            gradients=sent["gradients"],
            other=sum(sent.values()) - sent["gradients"],
            link=hardware.link,
            overlaps=recipe.training.zero.overlaps(on_gpus=True),
            launching=LAUNCH * step.operations if step and not recipe.training.compile else 0.0,
            optimizer=step.moved / hardware.gpu.bandwidth if step else 0.0,
            decoding=data.batch_size / (DECODED * loaders) if self._has_images else None,
            reading=data.batch_size * read / hardware.storage if read else None,  # type: ignore[operator]
        )

    @property
    def _has_images(self) -> bool:
        return self.data.spec.image is None and self.recipe.data.feature_cache is None


def _not_counted(recipe: Recipe) -> Iterator[str]:
    """Yield what of the recipe the plan's time leaves out."""
    zero = recipe.training.zero
    if zero.offload_optimizer or zero.offload_parameters:
        yield (
            "Not in the time: what is offloaded passes between host and GPU, and the optimiser's "
            "step is the host's"
        )
    if recipe.training.compile:
        yield "Not in the time: the launching of kernels, which compiled blocks have fewer of"


def peak(gpu: GPU, precision: str) -> float:
    """Return the FLOP/s of a GPU in a recipe's precision."""
    wanted = "bf16" if precision in ("auto", "bf16_weights") else precision
    if wanted not in gpu.peak:
        raise UserError(
            f"training.precision={precision}: {gpu.name} computes no {wanted}; use "
            + " or ".join(gpu.peak)
        )
    return gpu.peak[wanted]


def num_micro_batches(recipe: Recipe, ranks: int) -> int:
    """Return how many micro-batches a rank encodes in a step."""
    share = recipe.data.batch_size // ranks
    return -(-share // (recipe.data.micro_batch_size or share))


def computed_flops(recipe: Recipe, flops: Flops, ranks: int) -> float:
    """Return the FLOPs of a step with those of encoders that compute something again."""
    again = 1 - 1 / num_micro_batches(recipe, ranks)
    if recipe.training.checkpoint_activations == "blocks":
        again += 1
    return flops.total + again * sum(flops.forward.get(part, 0) for part in ("image", "text"))


def _data_size(
    recipe: Recipe,
    shards: Shards | None,
    method: Method,
    samples: int | None,
    sample_bytes: float | None,
) -> DataSize:
    """Return what is known of the data, by the shards and by options, which come first."""
    if shards is None:
        spec = expected_samples(recipe, local=method.local)
        return DataSize(recipe.data.epoch or samples, sample_bytes, spec)
    first, train = data_sets(recipe, shards)[0], shards.train
    found = sum(shard.num_bytes for one in train for shard in one.shards)
    return DataSize(
        samples or epoch_samples(recipe, shards),
        sample_bytes or found / sum(one.num_samples for one in train),
        infer_sample_spec(first.reader, first.texts, captions=method.contents.captions),
    )


def _with_heads(method: Method) -> Method:
    """Give a method on the meta device tensors on the CPU in all but its encoders, as counting
    needs.
    """
    of_encoders = {id(tensor) for _, tensor in encoder_tensors(method)}

    def filled(tensor: Tensor) -> Tensor:
        return tensor if id(tensor) in of_encoders else torch.ones_like(tensor, device="cpu")

    method._apply(filled)
    return method

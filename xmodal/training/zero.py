"""The recipe's `training.zero`: DeepSpeed's ZeRO, which divides a run's state among ranks.

ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054), offload (Ren et al. 2021, arXiv 2101.06840) also
to disks (Rajbhandari et al. 2021, arXiv 2104.07857), ZeRO++ (Wang et al. 2023, arXiv 2306.10209).
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from xmodal.components.config import Config, Mark

# Stages that have an option, by its key; the others ignore it.
_STAGES = {
    "gather_bucket_size": "1 or 2",
    "prefetch_size": "3",
    "persistence_threshold": "3",
    "max_live_parameters": "3",
    "max_reuse_distance": "3",
    "sub_group_size": "3",
    "offload_optimizer": "1, 2 or 3",
    "offload_parameters": "3",
    "secondary_partition": "3",
}
# Numbers in a bucket: so many that one holds most models whole, or a share that is reduced while
# the backward pass makes the next.
_WHOLE, _OVERLAPPED = 500_000_000, 25_000_000


class OffloadConfig(Config):
    """A place outside the GPU for a part of the state; a word alone is the device."""

    device: Literal["cpu", "nvme"] = Field(
        "cpu", description="memory of the host; nvme: a local disk of each node"
    )
    pin_memory: bool = Field(
        True,
        description="page-locked memory, which copies faster and cannot be swapped out; not of "
        "parameters on a disk",
    )
    path: Annotated[str | None, Mark.FREE] = Field(
        None, description="nvme: folder on that disk; a rank's files lie there while it trains"
    )

    @model_validator(mode="after")
    def _on_a_disk(self) -> Self:
        if (self.device == "nvme") != bool(self.path):
            raise ValueError("nvme, and it alone, needs a path: {device: nvme, path: FOLDER}")
        return self


class ZeroConfig(Config):
    """DeepSpeed's ZeRO; a number alone is its stage."""

    stage: Literal[0, 1, 2, 3] = Field(
        0,
        description="what is divided among ranks; 0: nothing; 1: the optimiser's state; 2: "
        "gradients too; 3: weights too",
    )
    overlap: bool | None = Field(
        None,
        description="reduce gradients while the backward pass continues; null: on GPUs, under "
        "stage 3 everywhere",
    )
    bucket_size: PositiveInt | None = Field(
        None,
        description=f"numbers of gradients that are reduced at a time; null: {_OVERLAPPED:,} where "
        f"this overlaps the backward pass on GPUs, else {_WHOLE:,}",
    )
    gather_bucket_size: Annotated[int, Field(ge=2, multiple_of=2)] = Field(
        _WHOLE, description="stages 1, 2: numbers of weights that are gathered at a time"
    )
    prefetch_size: NonNegativeInt = Field(
        50_000_000, description="stage 3: numbers of weights that are gathered ahead of use"
    )
    persistence_threshold: NonNegativeInt = Field(
        100_000, description="stage 3: weights of fewer numbers stay whole on every rank"
    )
    max_live_parameters: NonNegativeInt = Field(
        1_000_000_000, description="stage 3: numbers of weights that are gathered at once, at most"
    )
    max_reuse_distance: NonNegativeInt = Field(
        1_000_000_000,
        description="stage 3: gathered weights are kept if they are used again within so many "
        "numbers",
    )
    sub_group_size: PositiveInt = Field(
        1_000_000_000,
        description="stage 3: numbers of a rank that the optimiser steps at once; from disks they "
        "are in memory meanwhile",
    )
    offload_optimizer: OffloadConfig | None = Field(
        None, description="stages 1 to 3: where the optimiser's state lies and steps; null: GPU"
    )
    offload_parameters: Annotated[OffloadConfig | None, Mark.FREE] = Field(
        None, description="stage 3: where weights lie until they are gathered; null: GPU"
    )
    secondary_partition: PositiveInt = Field(
        1,
        description="stage 3: ranks, such as those of a node, that share out a second copy of the "
        "weights, from which the backward pass gathers (ZeRO++); 1: none",
    )

    @model_validator(mode="after")
    def _of_its_stage(self) -> Self:
        for name, stages in _STAGES.items():
            is_default = getattr(self, name) == type(self).model_fields[name].default
            if str(self.stage) not in stages and not is_default:
                raise ValueError(
                    f"stage {self.stage} has no {name}; remove it, or use stage {stages}"
                )
        return self

    @model_validator(mode="after")
    def _divides_weights(self) -> Self:
        if self.from_disk and self.stage < 3:
            raise ValueError(
                f"stage {self.stage} keeps the optimiser's state in memory; use stage 3 with nvme, "
                "or offload_optimizer=cpu"
            )
        return self

    @model_validator(mode="after")
    def _one_at_a_time(self) -> Self:
        if self.overlap and self._offloads_alone:
            raise ValueError("stage 1 does not overlap with offload_optimizer; use stage 2")
        return self

    @field_validator("offload_optimizer", "offload_parameters", mode="before")
    @classmethod
    def _device_alone(cls, offload: Any) -> Any:
        return {"device": offload} if isinstance(offload, str) else offload

    @property
    def disks(self) -> dict[str, str]:
        """Folders on disks, by the option that names one."""
        offloads = {
            "offload_optimizer": self.offload_optimizer,
            "offload_parameters": self.offload_parameters,
        }
        return {key: one.path for key, one in offloads.items() if one and one.path}

    @property
    def from_disk(self) -> bool:
        """True if the optimiser's state lies on a disk, and steps from there."""
        return "offload_optimizer" in self.disks

    def overlaps(self, *, on_gpus: bool) -> bool:
        """Return whether gradients are reduced while the backward pass continues."""
        if self.overlap is None:
            return self.stage == 3 or (on_gpus and not self._offloads_alone)
        return self.overlap

    @property
    def _offloads_alone(self) -> bool:
        # DeepSpeed takes gradients to the host as it reduces them.
        return self.stage == 1 and self.offload_optimizer is not None

    def bucket(self, *, on_gpus: bool) -> int:
        """Return how many numbers of gradients are reduced at a time."""
        split = on_gpus and self.overlaps(on_gpus=on_gpus)
        return self.bucket_size or (_OVERLAPPED if split else _WHOLE)

    def options(self, *, on_gpus: bool) -> dict[str, Any]:
        """Return DeepSpeed's options, its `zero_optimization`."""
        offloads = {
            "offload_optimizer": self.offload_optimizer,
            "offload_param": self.offload_parameters,
        }
        if "offload_parameters" in self.disks:
            # To DeepSpeed they are in the host's memory: xmodal/runs/deepspeed_mapped_weights.py.
            offloads["offload_param"] = OffloadConfig(device="cpu", pin_memory=False)
        return {
            "stage": self.stage,
            # Of stages 0 and 1: xmodal/distributed/gradient_reduction.py.
            "overlap_comm": self.stage > 1 and self.overlaps(on_gpus=on_gpus),
            "reduce_bucket_size": self.bucket(on_gpus=on_gpus),
            "allgather_bucket_size": self.gather_bucket_size,
            "stage3_prefetch_bucket_size": self.prefetch_size,
            "stage3_param_persistence_threshold": self.persistence_threshold,
            "stage3_max_live_parameters": self.max_live_parameters,
            "stage3_max_reuse_distance": self.max_reuse_distance,
            "sub_group_size": self.sub_group_size,
            "zero_hpz_partition_size": self.secondary_partition,
            **{
                key: one.model_dump(exclude={"path"})
                for key, one in offloads.items()
                if one is not None
            },
        }

"""A plan of a run as a table in the terminal and as JSON."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.table import Table

from xmodal.assembly.plan_fit import in_words
from xmodal.assembly.run_plan import RunPlan, StagePlan, num_micro_batches
from xmodal.terminal import console

WIDTH = 88
_FLOPS = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))


def print_plan(plan: RunPlan, changes: Mapping[str, Any]) -> None:
    """Print a plan, and the keys of what `--fit` has changed."""
    screen = console(width=WIDTH, highlight=False)
    screen.print(_table(_title(plan), _of_run(plan)))
    for stage in plan.stages:
        name = f"stage {stage.name}" if len(plan.stages) > 1 else "a step"
        screen.print(_table(name, _of_stage(plan, stage)))
    for line in [*plan.lines, *_verdict(plan)]:
        print(line)
    if changes:
        print(f"Add to the command: {in_words(changes)}")


def as_json(plan: RunPlan, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan in bytes, seconds, FLOPs and numbers."""
    hardware, gpu = plan.hardware, plan.hardware.gpu
    return {
        "gpus": hardware.ranks,
        "gpu": gpu.name if gpu else "cpu",
        "mfu": hardware.mfu,
        "parameters": plan.parameters,
        "samples": plan.data.samples,
        "fits": plan.fits,
        "seconds": plan.seconds,
        "gpu_hours": plan.seconds and plan.seconds * hardware.ranks / 3600,
        "stages": [_stage_json(plan, stage) for stage in plan.stages],
        "changes": dict(changes),
        "lines": list(plan.lines),
    }


def _stage_json(plan: RunPlan, stage: StagePlan) -> dict[str, Any]:
    time = stage.time
    return {
        "name": stage.name,
        "steps": stage.steps,
        "trained": stage.trained,
        "micro_batches": num_micro_batches(plan.recipe, plan.hardware.ranks),
        "flops": {"forward": dict(stage.flops.forward), "backward": dict(stage.flops.backward)},
        "computed_flops": stage.computed,
        "memory": dict(stage.memory),
        "most": dict(stage.most),
        "sent": dict(stage.sent),
        "checkpoint": stage.checkpoint,
        "on_host": stage.on_host,
        "on_disk": stage.on_disk,
        "seconds": time and vars(time) | {"total": time.total},
        "bottleneck": time and time.bottleneck,
    }


def _table(title: str, rows: Iterator[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, width=WIDTH)
    table.show_header = False
    table.add_column(ratio=1)
    table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _title(plan: RunPlan) -> str:
    ranks, gpu = plan.hardware.ranks, plan.hardware.gpu
    return f"{plan.recipe.run} on {ranks} {f'× {gpu.name}' if gpu else 'CPU ranks'}"


def _of_run(plan: RunPlan) -> Iterator[tuple[str, str]]:
    recipe, ranks = plan.recipe, plan.hardware.ranks
    share = recipe.data.batch_size // ranks
    number = num_micro_batches(recipe, ranks)
    yield "parameters", f"{plan.parameters:,}"
    yield "batch", f"{recipe.data.batch_size:,} = {ranks} ranks × {share:,}"
    yield "micro-batches of a rank", f"{number} × {recipe.data.micro_batch_size or share:,}"
    if plan.data.samples:
        yield "samples of an epoch", f"{plan.data.samples:,}"
    steps = [stage.steps for stage in plan.stages if stage.steps is not None]
    if len(steps) == len(plan.stages):
        yield "steps", f"{sum(steps):,}"
    if plan.seconds is not None:
        yield f"time at {plan.hardware.mfu:.0%} MFU", _duration(plan.seconds)
        yield "GPU-hours", f"{plan.seconds * ranks / 3600:,.1f}"
    yield "checkpoint", _size(max(stage.checkpoint for stage in plan.stages))


def _of_stage(plan: RunPlan, stage: StagePlan) -> Iterator[tuple[str, str]]:
    yield "trained parameters", f"{stage.trained:,}"
    total = stage.flops.total
    unit, name = next((u, n) for u, n in _FLOPS if total >= u or u == _FLOPS[-1][0])
    yield "model FLOPs of the batch", f"{total / unit:,.1f} {name}"
    for part in stage.flops.forward:
        both = stage.flops.forward[part] + stage.flops.backward.get(part, 0)
        yield f"  {part}", f"{both / unit:,.1f}"
    if stage.computed > 1.001 * total:
        yield "  computed again, to save memory", f"{(stage.computed - total) / unit:,.1f}"
    yield "memory of a rank, in its fullest moment", _size(sum(stage.memory.values()))
    for name, size in sorted(stage.memory.items(), key=lambda item: -item[1]):
        most = stage.most.get(name, 0)
        later = f" (at most {_size(most)})" if most > 1.05 * size else ""
        if size or later:
            yield f"  {name}", _size(size) + later
    if stage.on_host:
        yield "memory of the host for a rank", _size(stage.on_host)
    if stage.on_disk:
        yield "local disk for a rank", _size(stage.on_disk)
    yield "sent by a rank", _size(sum(stage.sent.values()))
    for name, size in stage.sent.items():
        if size:
            yield f"  {name}", _size(size)
    yield from _of_time(plan, stage)


def _of_time(plan: RunPlan, stage: StagePlan) -> Iterator[tuple[str, str]]:
    if (time := stage.time) is None:
        return
    yield "time", _short_time(time.total)
    yield "  computing", _short_time(time.computing)
    if time.launching:
        yield "  launching of kernels, beside computing", _short_time(time.launching)
    yield "  optimiser", _short_time(time.optimizer)
    hidden = f" ({_short_time(time.hidden)} beside computing)" if time.hidden else ""
    yield "  communication", _short_time(time.communication) + hidden
    if time.decoding is not None:
        workers = f"{max(1, plan.recipe.data.workers)} workers a rank"
        yield f"  decoding images, {workers}", _short_time(time.decoding)
    if time.reading is not None:
        yield "  reading shards", _short_time(time.reading)
    rate = plan.recipe.data.batch_size / time.total
    yield "samples a second", f"{rate:,.0f} ({rate / plan.hardware.ranks:,.0f} a GPU)"
    if plan.data.sample_bytes:
        yield "read from shards a second", _size(rate * plan.data.sample_bytes)
    yield "bottleneck", time.bottleneck


def _verdict(plan: RunPlan) -> Iterator[str]:
    gpu = plan.hardware.gpu
    if gpu is None:
        return
    usable = f"{_size(plan.usable)} that tensors can take of {_size(gpu.memory)}"
    if plan.fits:
        yield f"Fits: {_size(plan.memory)} of the {usable}"
    else:
        yield f"Does not fit: {_size(plan.memory)}, more than the {usable}; search with --fit"


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.0f} B" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def _short_time(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def _duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.1f} minutes"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 86400:.1f} days"

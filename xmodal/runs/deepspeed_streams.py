"""DeepSpeed's streams, in order on the GPU without a wait of the host.

At the end of a backward pass of ZeRO 2 with overlap and of ZeRO 3, DeepSpeed has the host wait
until gradients are reduced on a stream of its own; after a step of ZeRO 3, until the weights that
stay whole are gathered. What reads either is launched on the current stream, and it is enough that
this stream waits. What is reduced next waits for the current stream before it writes, as DeepSpeed
has it.
"""

from functools import partial
from typing import Any

_REDUCED = "independent_gradient_partition_epilogue"  # the end of a backward pass
# By stage: the stream that gradients are reduced on, and the methods that wait.
_STREAMS = {2: "reduction_stream", 3: "reduce_and_partition_stream"}
_WAITING = {2: (_REDUCED,), 3: (_REDUCED, "_post_step")}
OF_STREAMS = {
    stage: [f"optimizer.{name}" for name in (stream, *_WAITING[stage])]
    for stage, stream in _STREAMS.items()
}


def order_streams(engine: Any, accelerator: Any) -> None:
    """Have the current stream wait where DeepSpeed has the host wait for what an engine launched.

    Not where anything is offloaded: the host reads gradients, or writes weights.
    """
    zero, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage not in _STREAMS or _is_offloaded(zero) or accelerator.resolves_data_dependency():
        return
    stream = getattr(zero, _STREAMS[stage])
    for name in _WAITING[stage]:
        setattr(zero, name, partial(_in_order, getattr(zero, name), stream, accelerator))


def _is_offloaded(zero: Any) -> bool:
    offloads = ("cpu_offload", "offload_optimizer", "offload_param")  # stage 2 has the first alone
    return any(getattr(zero, name, False) for name in offloads)


def _in_order(call: Any, stream: Any, accelerator: Any, *arguments: Any) -> None:
    for waited in (stream, accelerator):
        waited.synchronize = lambda *_: accelerator.current_stream().wait_stream(stream)
    try:
        call(*arguments)
    finally:
        for waited in (stream, accelerator):
            del waited.synchronize

"""DeepSpeed's streams, in order on the GPU without a wait of the host.

At the end of a backward pass of ZeRO 2 with overlap and of ZeRO 3, DeepSpeed has the host wait
until gradients are reduced on a stream of its own. What reads them is launched on the current
stream: it is enough that this stream waits. What is reduced next waits for the current stream
before it writes, as DeepSpeed has it.

After a step of ZeRO 3 the host waits for the device. Here weights that stay whole are gathered on
the current stream; the stream that gathers all others has to wait for it, because it reads what was
stepped there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

_REDUCED = "independent_gradient_partition_epilogue"  # the end of a backward pass
_STEPPED = "_post_step"
_GATHERING = "parameter_offload._DeepSpeedZeRoOffload__allgather_stream"
# Of engines' optimisers, by stage.
OF_STREAMS = {
    2: [f"optimizer.{name}" for name in ("reduction_stream", _REDUCED)],
    3: [
        f"optimizer.{name}"
        for name in ("reduce_and_partition_stream", _GATHERING, _REDUCED, _STEPPED)
    ],
}


def order_streams(engine: Any, accelerator: Any) -> None:
    """Have streams wait for each other where DeepSpeed has the host wait for what it launched.

    Not where anything is offloaded: the host reads gradients, or writes weights.
    """
    zero, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage not in OF_STREAMS or _is_offloaded(zero) or accelerator.resolves_data_dependency():
        return
    reducing = zero.reduction_stream if stage == 2 else zero.reduce_and_partition_stream
    reduce = getattr(zero, _REDUCED)

    def reduced() -> None:
        with _host_goes_on(accelerator, reducing):
            reduce()

    setattr(zero, _REDUCED, reduced)
    if stage == 3:
        step, gathering = getattr(zero, _STEPPED), attrgetter(_GATHERING)(zero)

        def stepped(*arguments: Any) -> None:
            with _host_goes_on(accelerator, reducing):
                step(*arguments)
            gathering.wait_stream(accelerator.current_stream())

        setattr(zero, _STEPPED, stepped)


def _is_offloaded(zero: Any) -> bool:
    offloads = ("cpu_offload", "offload_optimizer", "offload_param")  # stage 2 has the first alone
    return any(getattr(zero, name, False) for name in offloads)


@contextmanager
def _host_goes_on(accelerator: Any, stream: Any) -> Iterator[None]:
    """Have the current stream wait for another where the host would wait for it or for the GPU."""
    for waited in (stream, accelerator):
        waited.synchronize = lambda *_: accelerator.current_stream().wait_stream(stream)
    try:
        yield
    finally:
        for waited in (stream, accelerator):
            del waited.synchronize

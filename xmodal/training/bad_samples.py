"""Bad samples of a training step, counted over all ranks."""

from xmodal.data.batch import Batch, Fault
from xmodal.data.config import DataConfig
from xmodal.distributed.collectives import gather_objects
from xmodal.runs.progress import Progress


def count_bad_samples(
    batch: Batch, steps: int, progress: Progress, data: DataConfig
) -> tuple[list[str], str | None]:
    """Count the bad samples and repeated reads of all ranks in `progress`.

    `steps` have been trained, that of the batch included. Return lines for the log, which name the
    first ones, and the reason to stop where bad samples are too many.
    """
    faults = gather_objects(batch.faults, Fault)
    lines = progress.count(faults) + progress.count_retries(gather_objects(batch.warnings))
    seen = steps * data.batch_size
    if progress.faults <= data.max_bad_share * max(seen, 1000):
        return lines, None
    bad = [fault for fault in faults if not (fault.by_choice or fault.partial)]
    return lines, (
        f"{progress.faults} of {seen} samples cannot be read "
        f"({progress.causes()}), the last {bad[-1] if bad else 'named above'}; "
        "run `python -m shards check` on the shards or raise data.max_bad_share"
    )

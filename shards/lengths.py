"""Lengths of the texts of shards, which `data.length_buckets` orders samples by."""

from functools import lru_cache

from shards.parallel import progress, run_parallel
from xmodal.data.manifest import Manifest, read_manifest
from xmodal.data.text_lengths import measure_texts


def lengths(folder: str, workers: int) -> None:
    """Write the `.lengths` of every shard of a folder; those that are there are written anew."""
    manifest = read_manifest(folder)
    jobs = [(folder, place) for place in range(len(manifest.shards))]
    with progress("lengths", len(jobs)) as advance:
        for _ in run_parallel(_measure, jobs, min(workers, len(jobs))):
            advance(1)
    print(
        f"lengths of the texts of {manifest.num_samples:,} samples are beside the tars of {folder}"
    )


def _measure(job: tuple[str, int]) -> None:
    folder, place = job
    measure_texts(_manifest(folder), place)


@lru_cache(maxsize=1)
def _manifest(folder: str) -> Manifest:
    return read_manifest(folder)

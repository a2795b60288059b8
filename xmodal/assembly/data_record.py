"""Record of the data that a run is trained on, compared when it resumes.

The recipe names where shards lie, not what they are: where those grow or change, the order of
samples does too, and with it the steps of an epoch. `data.json` in the run folder has the shards.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from xmodal.assembly.recipe import Recipe
from xmodal.atomic_files import write_atomically
from xmodal.data.digests import digest_of
from xmodal.data.manifest import Manifest
from xmodal.errors import UserError
from xmodal.runs.progress import Progress
from xmodal.small_files import read_small

NAME = "data.json"
_NUM_EXAMPLES = 3
# A data set of a record: its URL, fingerprint, samples of an epoch, each shard's samples, bytes and
# digests by URL, and the digest of the samples that a keep-list keeps, "" without one.
SetRecord = dict[str, Any]


@dataclass(frozen=True)
class Resumed:
    """Consequences of changed data for a run: samples of an epoch, lines for its log, and whether
    it continues on other training data.
    """

    epoch: int
    lines: list[str]
    on_others: bool = False


class DataRecord:
    """The data sets of a run by their role: `data.train`, `data.val` and others."""

    def __init__(self, sets: Mapping[str, Sequence[Manifest]]) -> None:
        self.manifests = {role: list(each) for role, each in sets.items() if each}

    def write(self, folder: Path) -> None:
        """Write the record into a run folder."""
        sets = {role: list(map(_described, each)) for role, each in self.manifests.items()}
        write_atomically(folder / NAME, json.dumps(sets, indent=1) + "\n")

    def resume(self, folder: Path, recipe: Recipe, progress: Progress) -> Resumed:
        """Compare the data with those that a run folder was trained on.

        Raises `UserError` where those of an unfinished run have changed, and the recipe does not
        accept the new ones.
        """
        train = self.manifests["data.train"]
        epoch = recipe.data.epoch or sum(one.epoch_samples for one in train)
        if not progress.step:
            return Resumed(epoch, [])
        before = _read(folder / NAME)
        if not before:
            return Resumed(epoch, [f"{NAME} is missing: changes of the data cannot be detected"])
        lines = [
            f"warning: {role} changed since step {progress.step} ({change}): metrics before and "
            "after it are not comparable"
            for role in ("data.val", "data.gallery", "data.probe_train")
            if (change := self._change(role, before))
        ]
        change = self._change("data.train", before)
        if not change:
            return Resumed(epoch, lines)
        epoch_before = recipe.data.epoch or sum(map(_num_samples, before["data.train"]))
        steps = recipe.timeline(epoch_before).total
        if recipe.data.accept == self.fingerprint:
            lines += _accepted(change, recipe, progress.step, (epoch_before, epoch), steps)
            return Resumed(epoch, lines, on_others=True)
        if progress.step >= steps:
            said = f"warning: data.train changed since the run finished ({change})"
            return Resumed(epoch_before, [*lines, f"{said}: its results are of the data before"])
        raise UserError(
            f"data.train changed since step {progress.step} of run={folder} ({change}); restore "
            "it, name another run=DIR, or resume in another order of samples by "
            f"data.accept={self.fingerprint}"
        )

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all training data together."""
        prints = [one.fingerprint for one in self.manifests["data.train"]]
        if len(prints) == 1:
            return prints[0]
        return f"sha256-{sha256(' '.join(prints).encode()).hexdigest()[:16]}"

    def _change(self, role: str, before: Mapping[str, Sequence[SetRecord]]) -> str:
        now = self.manifests.get(role, [])
        pairs = zip(before.get(role, []), map(_described, now), strict=False)
        return "; ".join(line for old, new in pairs if (line := _difference(old, new)))


def _described(manifest: Manifest) -> SetRecord:
    shards = {
        shard.url: [
            shard.kept.total if shard.kept else shard.num_samples,
            shard.indexed_bytes,
            index,
            shard.digests.headers,
            shard.digests.sha256,
        ]
        for shard, index in zip(manifest.shards, manifest.index_digests, strict=True)
    }
    return {
        "url": manifest.url,
        "fingerprint": manifest.fingerprint,
        "epoch_samples": manifest.epoch_samples,
        "kept": digest_of("".join(kept).encode()) if (kept := _kept(manifest)) else "",
        "shards": shards,
    }


def _kept(manifest: Manifest) -> list[str]:
    return [f"{one.name} {one.kept.digest}\n" for one in manifest.shards if one.kept]


def _read(path: Path) -> dict[str, list[SetRecord]] | None:
    """Return a record; None where there is none that can be read."""
    try:
        sets = json.loads(read_small(path))
        for role in sets.values():
            for one in role:
                one["url"].split()
                for number, size, *digests in one["shards"].values():
                    _ = number + size, len(digests) == 3
        return sets if sets["data.train"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _difference(old: SetRecord, new: SetRecord) -> str:
    """Return the differences of a data set from its record, "" without any."""
    was, now = old["shards"], new["shards"]
    kept = was.keys() & now.keys()
    parts = [
        *(["its keep-list has changed"] if old.get("kept", "") != new["kept"] else []),
        *_named("added", [url for url in now if url not in was]),
        *_named("removed", [url for url in was if url not in now]),
        *_named("changed", [url for url in now if url in kept and _differ(was[url], now[url])]),
    ]
    if not parts and list(was) != list(now):
        parts.append("its shards come in another order")
    if not parts:
        return ""
    count, before = _num_samples(new), _num_samples(old)
    if count != before:
        parts.append(f"{count:,} samples, {before:,} before")
    return f"{new['url']}: {', '.join(parts)}"


def _differ(old: Sequence[Any], new: Sequence[Any]) -> bool:
    """Return whether a shard has changed, by the facts known both then and now."""
    return any(a != b for a, b in zip(old, new, strict=False) if None not in (a, b))


def _named(what: str, urls: Sequence[str]) -> Iterator[str]:
    if urls:
        names = ", ".join(url.rpartition("/")[2] for url in urls[:_NUM_EXAMPLES])
        more = ", …" if len(urls) > _NUM_EXAMPLES else ""
        yield f"{len(urls):,} shard{'s' * (len(urls) > 1)} {what} ({names}{more})"


def _num_samples(one: SetRecord) -> int:
    """Return the samples of an epoch; records of before have those of their shards alone."""
    return one.get("epoch_samples") or sum(shard[0] for shard in one["shards"].values())


def _accepted(
    change: str, recipe: Recipe, step: int, epochs: tuple[int, int], steps: int
) -> Iterator[str]:
    old, new = (step * recipe.data.batch_size / samples for samples in epochs)
    total = recipe.timeline(epochs[1]).total
    yield f"data.train changed ({change}) and is accepted by data.accept"
    yield (
        f"from step {step} on samples come in another order: it is epoch {new:.1f} of the data "
        f"now, was {old:.1f} of those before; "
        + (
            f"{total} steps in all, {steps} before, and schedules follow"
            if total != steps
            else f"steps ({total}) and schedules stay as they were"
        )
    )

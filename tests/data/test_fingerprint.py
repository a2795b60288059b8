"""The fingerprint of a manifest: another one for other data, the same one for the same."""

import json
import shutil
from pathlib import Path

from tests.shard_sets import numbered, write_shards
from xmodal.data.digests import Digests
from xmodal.data.manifest import read_manifest, write_manifest

SAMPLES = list(numbered(12).items())


def shards(folder: Path) -> Path:
    """Twelve samples in three shards."""
    write_shards(folder, [dict(SAMPLES[n : n + 4]) for n in (0, 4, 8)])
    return folder


def fingerprint(folder: Path) -> str:
    return read_manifest(folder).fingerprint


def test_data_have_a_fingerprint_wherever_they_lie(tmp_path: Path) -> None:
    one = shards(tmp_path / "one")
    shutil.copytree(one, tmp_path / "other")
    assert fingerprint(one) == fingerprint(tmp_path / "other")
    assert fingerprint(one).startswith("sha256-")
    assert len(fingerprint(one)) == len("sha256-") + 16


def test_other_shards_samples_or_an_other_order_have_other_fingerprints(tmp_path: Path) -> None:
    folder = shards(tmp_path)
    found = {fingerprint(folder)}
    names = {f"set-{n:06d}.tar": 4 for n in (1, 0, 2)}
    write_manifest(folder, names)
    found.add(fingerprint(folder))
    write_manifest(folder, dict(list(names.items())[:2]))
    found.add(fingerprint(folder))
    changed = dict(SAMPLES[4:8]) | {"00004": {"txt": b"other"}}
    write_shards(folder, [dict(SAMPLES[:4]), changed, dict(SAMPLES[8:])])
    found.add(fingerprint(folder))
    assert len(found) == 4


def test_digests_of_the_manifest_are_part_of_it(tmp_path: Path) -> None:
    folder = shards(tmp_path)
    names = {f"set-{n:06d}.tar": 4 for n in range(3)}
    found = set()
    for digests in (Digests(), Digests(headers="a"), Digests(headers="b"), Digests(sha256="a")):
        write_manifest(folder, names, digests={"set-000001.tar": digests})
        found.add(fingerprint(folder))
    assert len(found) == 4


def test_a_manifest_of_before_has_the_fingerprint_of_its_indices(tmp_path: Path) -> None:
    folder = shards(tmp_path)
    before = fingerprint(folder)
    digests = read_manifest(folder).index_digests
    names = {f"set-{n:06d}.tar": 4 for n in range(3)}
    known = {name: Digests(index=one) for name, one in zip(names, digests, strict=True)}
    write_manifest(folder, names, digests=known)
    assert "index" in json.loads((folder / "shardindex.json").read_text())["shardlist"][0]
    (folder / "set-000001.idx").write_text("v1.2 0\n")  # no index is read where digests are known
    assert fingerprint(folder) == before

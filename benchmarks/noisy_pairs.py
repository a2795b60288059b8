"""Shards in which a share of the images has the captions of others (noisy correspondence).

    python -m benchmarks.noisy_pairs SHARDS DIR
    python -m shards index DIR

Which images these are is drawn by a fixed seed; the captions of each go to the next of them.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import webdataset as wds

from xmodal.data.braces import expand_braces
from xmodal.errors import UserError, run_command


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="tars of images with captions, with braces")
    parser.add_argument("to", type=Path, metavar="DIR", help="folder that is not there yet")
    parser.add_argument("--share", type=float, default=0.4, help="of the images; default: 0.4")
    given = parser.parse_args()
    if given.to.exists():
        raise UserError(f"{given.to} is there already: delete it, or name another folder")
    given.to.mkdir(parents=True)
    tars = [Path(name) for name in expand_braces(given.shards)]
    captions = {key: json.loads(one["json"])["captions"] for key, one in samples(tars)}
    moved = moved_captions(captions, given.share)
    for tar in tars:
        with wds.TarWriter(str(given.to / tar.name)) as writer:
            for key, one in samples([tar]):
                written = json.loads(one["json"]) | {"captions": (captions | moved)[key]}
                writer.write({**one, "json": json.dumps(written).encode()})
    print(f"{len(moved):,} of {len(captions):,} images have the captions of others: {given.to}")


def samples(tars: list[Path]) -> list[tuple[str, dict[str, Any]]]:
    """Return the samples of tars as they are stored, by their keys."""
    found = wds.WebDataset([str(tar) for tar in tars], shardshuffle=False)
    return [(one["__key__"], one) for one in found]


def moved_captions(captions: dict[str, list[str]], share: float) -> dict[str, list[str]]:
    """Return other captions of a share of the images, none its own."""
    chosen = random.Random(0).sample(sorted(captions), round(share * len(captions)))
    return {key: captions[chosen[place - 1]] for place, key in enumerate(chosen)}


if __name__ == "__main__":
    run_command(main)

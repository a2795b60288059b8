"""Build, index, check and show WebDataset shards of images and texts.

python -m shards sources
python -m shards build flickr8k --from ~/flickr8k --to ~/shards/flickr8k
python -m shards index ~/shards/mine
python -m shards lengths ~/shards/mine
python -m shards check ~/shards/mine
python -m shards show s3://bucket/shards/mine

Shards lie in local folders or buckets; AWS_ENDPOINT_URL, AWS_PROFILE, AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY configure the access to buckets.
"""

import argparse
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.place import check_folder
from xmodal.activity import reporting
from xmodal.arguments import ArgumentParser, plugin_option
from xmodal.components.plugins import import_plugins
from xmodal.errors import UserError, run_command


def main(words: Sequence[str] | None = None, *, prog: str = "python -m shards") -> int | None:
    arguments = read_arguments(sys.argv[1:] if words is None else words, prog)
    with reporting(lambda line: print(line, file=sys.stderr, flush=True)):
        return arguments.run(arguments)


def read_arguments(words: Sequence[str], prog: str = "python -m shards") -> argparse.Namespace:
    # Before all else is read: a plugin may add the source, or the scheme of a URL.
    import_plugins(_plugins(prog).parse_known_args(words)[0].plugin)
    parser = _parser(prog)
    # argparse takes NAME=VALUE only directly after SOURCE; the others are left over.
    arguments, rest = parser.parse_known_args(words)
    strange = [word for word in rest if word.startswith("-") or "=" not in word]
    if strange or (rest and arguments.run is not _build):
        parser.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    if rest:
        arguments.options += rest
    return arguments


def _parser(prog: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sources = _add_command(commands, "sources", help="list the data sets that can be converted")
    sources.add_argument("names", metavar="SOURCE", nargs="*", help="these alone (default: all)")
    sources.set_defaults(run=_sources)
    _add_build(commands)
    _add_index(commands)
    _add_lengths(commands)
    _add_check(commands)
    _add_show(commands)
    return parser


def _plugins(prog: str) -> ArgumentParser:
    return plugin_option(prog, "sources or storage schemes")


def _add_command(
    commands: "argparse._SubParsersAction[ArgumentParser]", name: str, **given: Any
) -> ArgumentParser:
    return commands.add_parser(name, parents=[_plugins(name)], **given)


def _add_build(commands: "argparse._SubParsersAction[ArgumentParser]") -> None:
    parser = _add_command(
        commands,
        "build",
        help="convert a data set into shards",
        description="Convert a data set into shards, each split into a folder of its own. A build "
        "that was killed is resumed when the same command is run again.",
    )
    parser.add_argument("source", metavar="SOURCE", help="one of `python -m shards sources`")
    parser.add_argument(
        "options", metavar="NAME=VALUE", nargs="*", default=[], help="options of the source"
    )
    parser.add_argument(
        "--from", dest="root", metavar="DIR", type=_from,
        help="the folder of the data set, or for pairs a table",
    )  # fmt: skip
    parser.add_argument(
        "--to", metavar="DIR|URL", type=_to, required=True,
        help="where to put the folders of shards, such as s3://bucket/shards",
    )  # fmt: skip
    parser.add_argument(
        "--split", dest="splits", metavar="NAME", action="append", default=[],
        help="make this split alone, from its own files; may be repeated (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--resize", metavar="N", type=_positive, help="shrink to a shorter side of at most N pixels"
    )
    parser.add_argument(
        "--samples-per-shard", metavar="N", type=_positive, default=1000, help="default: 1000"
    )
    parser.add_argument(
        "--part", metavar="I/N", type=_part, default=(1, 1),
        help="write the I-th of N parts alone, as slurm/shards.sbatch does; the last to end makes "
        "the index",
    )  # fmt: skip
    parser.add_argument(
        "--seed", metavar="N", type=int, help="seed of what a source draws at random"
    )
    _add_workers(parser)
    parser.set_defaults(run=_build)


def _add_index(commands: "argparse._SubParsersAction[ArgumentParser]") -> None:
    parser = _add_command(
        commands,
        "index",
        help="make the index of shards that come from elsewhere",
        description="Make shardindex.json and the .idx of each tar in a folder of shards.",
    )
    _add_folder(parser)
    parser.add_argument(
        "--digest", action="store_true",
        help="keep the SHA-256 of each tar too, which `check` compares and the data's fingerprint "
        "is made of; reads every tar twice",
    )  # fmt: skip
    _add_workers(parser)
    parser.set_defaults(run=_index)


def _add_lengths(commands: "argparse._SubParsersAction[ArgumentParser]") -> None:
    parser = _add_command(
        commands,
        "lengths",
        help="measure the texts of shards, for batches of texts of like length",
        description="Write the lengths of all texts beside each tar, which training reads where "
        "data.length_buckets is true.",
    )
    _add_folder(parser)
    _add_workers(parser)
    parser.set_defaults(run=_lengths)


def _add_check(commands: "argparse._SubParsersAction[ArgumentParser]") -> None:
    parser = _add_command(
        commands,
        "check",
        help="find what is broken in shards",
        description="Read every tar, decode every image, and print what is broken by cause. "
        "The exit code is 1 when something is.",
    )
    _add_folder(parser)
    _add_workers(parser)
    parser.set_defaults(run=_check)


def _add_show(commands: "argparse._SubParsersAction[ArgumentParser]") -> None:
    parser = _add_command(commands, "show", help="draw samples of shards on a contact sheet")
    _add_folder(parser)
    parser.add_argument(
        "-n", dest="count", metavar="N", type=_positive, default=8,
        help="how many samples, evenly spread (default: 8)",
    )  # fmt: skip
    parser.add_argument(
        "--to",
        metavar="FILE.png",
        type=_sheet,
        help="default: contact_sheet.png in the folder, or for a bucket here",
    )
    parser.set_defaults(run=_show)


def _add_folder(parser: ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="DIR", type=_folder, help="a folder of shards, such as s3://bucket/mine"
    )


def _add_workers(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--workers", metavar="N", type=_positive, default=len(os.sched_getaffinity(0)),
        help="processes (default: one a CPU)",
    )  # fmt: skip


def _folder(text: str) -> str:
    return check_folder(text)


def _to(text: str) -> str:
    return check_folder(text, "--to")


def _from(text: str) -> Path:
    if not text.strip():
        raise UserError("--from is empty: name the folder of the data set, or for pairs a table")
    return Path(text)


def _sheet(text: str) -> Path:
    path = Path(text)
    if not text.strip() or path.is_dir() or not path.parent.is_dir():
        raise UserError(f"--to {text!r}: name a file in a folder that is there, such as sheet.png")
    return path


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _part(text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 2/16")
    return int(number), int(parts)


def _sources(arguments: argparse.Namespace) -> None:
    from shards.source import find_source, source_names

    for name in arguments.names or source_names():
        source = find_source(name)
        print(f"{name}: {source.summary}")
        print(textwrap.indent(source.layout, "  "))
        if source.defaults:
            print(
                f"  options: {' '.join(f'{key}={_shown(v)}' for key, v in source.defaults.items())}"
            )
        print()


def _build(arguments: argparse.Namespace) -> None:
    from shards.build import build
    from shards.source import find_source

    options = _read_options(arguments.options, find_source(arguments.source).defaults)
    if arguments.seed is not None:
        options["seed"] = arguments.seed
    build(
        arguments.source,
        arguments.to,
        arguments.root,
        splits=arguments.splits,
        options=options,
        resize=arguments.resize,
        samples_per_shard=arguments.samples_per_shard,
        workers=arguments.workers,
        part=arguments.part,
    )


def _index(arguments: argparse.Namespace) -> None:
    from shards.index import index

    index(arguments.folder, arguments.workers, digest=arguments.digest)


def _lengths(arguments: argparse.Namespace) -> None:
    from shards.lengths import lengths

    lengths(arguments.folder, arguments.workers)


def _check(arguments: argparse.Namespace) -> int:
    from shards.check import check

    return check(arguments.folder, arguments.workers)


def _show(arguments: argparse.Namespace) -> None:
    from shards.show import show

    show(arguments.folder, arguments.count, arguments.to)


def _read_options(
    words: Sequence[str], defaults: Mapping[str, int | float | str]
) -> dict[str, object]:
    options: dict[str, object] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word!r} is not an option of the form NAME=VALUE")
        if name in options:
            raise UserError(f"{word}: {name} is given twice")
        kind = type(defaults.get(name, ""))
        try:
            options[name] = _TRUTH[value.lower()] if kind is bool else kind(value)
        except (ValueError, KeyError):
            wanted = "true or false" if kind is bool else f"of type {kind.__name__}"
            raise UserError(f"{word}: {name} must be {wanted}") from None
    return options


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_TRUTH = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


if __name__ == "__main__":
    run_command(main)

"""Names of tensors in a format and in ours, and the way from one to the other.

Nothing is read before it is asked for, and then one tensor at a time: a checkpoint is never in
memory twice.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from xmodal.errors import UserError


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name; each is computed whenever it is asked for."""

    def __init__(self, tensors: Mapping[str, Callable[[], Tensor]]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def transposed(tensor: Tensor) -> Tensor:
    """Return a matrix with its sides swapped: formats multiply from either side."""
    return tensor.T


@dataclass(frozen=True)
class Rule:
    """A tensor of ours and its name in a format; or several, which hold the same numbers.

    `{n}` in names is a number, `{rest}` any text; each is the same in both. `read` makes ours of
    theirs, `write` theirs of ours: one tensor, or as many as there are names.
    """

    ours: str | tuple[str, ...]
    theirs: str | tuple[str, ...]
    read: Callable[..., Tensor | Sequence[Tensor]] = _same
    write: Callable[..., Tensor | Sequence[Tensor]] = _same

    @property
    def our_names(self) -> tuple[str, ...]:
        """Names of ours."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the format."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


def nested(rules: Sequence[Rule], ours: str, theirs: str) -> list[Rule]:
    """Return rules for tensors whose names begin with a prefix, in ours and in the format."""
    return [
        replace(
            rule,
            ours=tuple(ours + name for name in rule.our_names),
            theirs=tuple(theirs + name for name in rule.names),
        )
        for rule in rules
    ]


def read_by(
    rules: Sequence[Rule], tensors: Mapping[str, Tensor], source: str, ignored: str = r"(?!)"
) -> LazyTensors:
    """Return a format's tensors by our names.

    Raises `UserError`, which names `source`, for a tensor that no rule is for, unless its name
    matches `ignored`, and for one that a rule needs and that is missing.
    """
    found: dict[str, Callable[[], Tensor]] = {}
    used: set[str] = set()
    for name in tensors:
        for rule, parts in _matching(rules, name, lambda rule: rule.names[0]):
            names = [_fill(one, parts) for one in rule.names]
            if missing := [one for one in names if one not in tensors]:
                raise UserError(f"{source} lacks the tensor {missing[0]}, which goes with {name}")
            for place, one in enumerate(rule.our_names):
                found[_fill(one, parts)] = partial(_made, rule.read, tensors, names, place)
            used.update(names)
    strange = [name for name in tensors if name not in used and not re.search(ignored, name)]
    if strange:
        raise UserError(
            f"{source} has {len(strange)} tensors of no part that xmodal knows: {strange[0]} …"
        )
    return LazyTensors(found)


def write_by(rules: Sequence[Rule], tensors: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Return our tensors by a format's names.

    Raises `UserError`, which names the format as `what`, for a tensor that it has no place for.
    """
    written: dict[str, Tensor] = {}
    placed: set[str] = set()
    for name in tensors:
        for rule, parts in _matching(rules, name, lambda rule: rule.our_names[0]):
            ours = [_fill(one, parts) for one in rule.our_names]
            placed.update(ours)
            for place, one in enumerate(rule.names):
                made = _made(rule.write, tensors, ours, place)
                written[_fill(one, parts)] = made.contiguous()
    if strange := [name for name in tensors if name not in placed]:
        raise UserError(f"{what} has no place for {strange[0]}")
    return written


def _matching(
    rules: Sequence[Rule], name: str, template: Callable[[Rule], str]
) -> Iterator[tuple[Rule, dict[str, str]]]:
    """Yield the first rule that a name fits, with the parts that its template leaves open."""
    for rule in rules:
        if match := _pattern(template(rule)).fullmatch(name):
            yield rule, match.groupdict()
            return


def _pattern(template: str) -> re.Pattern[str]:
    # `re` keeps what it has compiled.
    escaped = re.escape(template)
    return re.compile(
        escaped.replace(r"\{n\}", r"(?P<n>\d+)").replace(r"\{rest\}", r"(?P<rest>.+)")
    )


def _fill(template: str, parts: Mapping[str, str]) -> str:
    return template.format(**parts)


def _made(
    make: Callable[..., Tensor | Sequence[Tensor]],
    tensors: Mapping[str, Tensor],
    names: Sequence[str],
    place: int,
) -> Tensor:
    """Return one of the tensors that are made of those by the names given."""
    made = make(*(tensors[name] for name in names))
    return made if isinstance(made, Tensor) else made[place]

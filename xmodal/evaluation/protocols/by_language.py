"""`by-language`: recall of the texts of each language apart, and the mean over languages."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import ClassVar, Literal

import torch
from rich.table import Table
from rich.text import Text

from xmodal.data.decode import BadSample
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import PROBED
from xmodal.errors import UserError, printable
from xmodal.evaluation.context import EvaluationContext, EvaluationData
from xmodal.evaluation.embedding import embed_captions
from xmodal.evaluation.gallery import Gallery
from xmodal.evaluation.metrics.recall import CUTOFFS, DIRECTIONS, HIGHER_IS_BETTER, recall_metrics
from xmodal.evaluation.metrics.similarity import BY_DISTANCE
from xmodal.evaluation.per_query import PerQuery
from xmodal.evaluation.protocols.all_captions import Ranking, rank_captions
from xmodal.evaluation.protocols.config import ProtocolConfig
from xmodal.evaluation.protocols.protocol import Metrics, Protocol
from xmodal.evaluation.report.section import Cell, Row, Section, measured_cell
from xmodal.evaluation.report.tables import add_columns, new_table

CAPTIONS = "captions"  # the key of texts that are embedded for all protocols
# Keys of a sample's JSON that are found by themselves: codes of languages, such as zh or pt_BR.
_CODE = re.compile(r"[a-z]{2,3}([-_@][A-Za-z]+)*")
_AT_ONCE = 256  # samples that are read together


class ByLanguageConfig(ProtocolConfig):
    """Recall of the texts of each language, the mean over languages."""

    kind: Literal["by-language"] = "by-language"
    builds: ClassVar[str] = "ByLanguage"


class ByLanguage(Protocol):
    """Recall in both directions of each language's texts, and its mean over languages.

    The texts of a language are searched alone, among the images that have any. A text is relevant
    to its own image and to all with the same image id.
    """

    name = "by-language"
    higher_is_better = HIGHER_IS_BETTER
    lower_is_better = tuple(f"{direction}/median_rank" for direction in DIRECTIONS)
    variants = (BY_DISTANCE,)

    @property
    def headline(self) -> str:
        return "rsum"

    def check(self, data: EvaluationData) -> None:
        super().check(data)
        self.check_reads_text(data.method, "texts of other languages")
        _languages(data.reader, data.config.languages)

    def measure(self, context: EvaluationContext) -> Metrics:
        metrics: Metrics = {}
        rankings = self.rankings(context)
        for language, ranking in rankings.items():
            for variant, ranks in ranking.ranks.items():
                name = f"{self.name}{variant}/{language}"
                metrics |= recall_metrics(ranks, ranking.relevant_pairs, name)
        first = next(iter(rankings.values()))
        for name in (self.name + variant for variant in first.ranks):
            metrics |= _means(metrics, name, list(rankings))
        return metrics

    def rankings(self, context: EvaluationContext) -> dict[str, Ranking]:
        """Return the ranked texts of each language, computed once."""
        return context.once(self.name, lambda: self.rank(context))

    def rank(self, context: EvaluationContext) -> dict[str, Ranking]:
        """Rank the texts of each language among the images that have any."""
        reader = SampleReader(context.shards)
        return {
            language: rank_captions(context, _gallery(context, reader, language), None)
            for language in _languages(reader, context.config.languages)
        }

    def per_query(self, context: EvaluationContext) -> list[PerQuery]:
        return [
            results
            for language, ranking in self.rankings(context).items()
            for results in ranking.per_query(self.name, f"/{language}")
        ]

    def table(self, metrics: Mapping[str, float], name: str) -> Table:
        table = new_table(f"{name}: recall, images → texts and texts → images")
        heads = [f"{arrow} R@{k}" for arrow in ("→t", "→i") for k in CUTOFFS]
        add_columns(table, "", *heads, "rsum")
        for label, prefix in _rows(metrics, name).items():
            values = [metrics[f"{prefix}/{one}"] for one in HIGHER_IS_BETTER]
            table.add_row(Text(label), *(f"{value:.1f}" for value in values))
        return table

    def section(self, metrics: Mapping[str, float], name: str) -> Section:
        *recalls, total = HIGHER_IS_BETTER
        rows = []
        for label, prefix in _rows(metrics, name).items():
            cells: list[Cell | str] = [measured_cell(metrics, f"{prefix}/{one}") for one in recalls]
            rows.append(Row(label, [*cells, f"{metrics[f'{prefix}/{total}']:.1f}"]))
        heads = [f"{arrow} R@{k}, %" for arrow in ("→ text", "→ image") for k in CUTOFFS]
        return Section(f"{len(rows) - 1} languages", ["", *heads, "rsum"], rows)


def _languages(reader: SampleReader, keys: Sequence[str] | None) -> list[str]:
    """Return the keys of texts, one a language: those given, or those found in the first samples.

    Raises `UserError` where one of those given is in none of these, or there is none to be found.
    """
    found: dict[str, None] = {}
    for number in range(min(PROBED, len(reader))):
        sample = reader[number]
        with suppress(BadSample):
            for key in sample.record if keys is None else keys:
                if keys is not None or _is_language(key, sample.record[key]):
                    found |= dict.fromkeys([key] if sample.texts(key).kept else [])
    url = reader.manifest.url
    for key in keys or ():
        if key not in found:
            raise UserError(
                f"evaluation.languages: the first samples of {url} have no texts under "
                f"{printable(key)} in their JSON; name keys that they have"
            )
    if keys is None and set(found) <= {CAPTIONS}:
        raise UserError(
            f"by-language: {url} has no texts of further languages, lists in its samples' JSON "
            "under the codes of these, such as zh; build it with them, or name their keys in "
            "evaluation.languages"
        )
    return list(keys or found)


def _is_language(key: str, value: object) -> bool:
    return key == CAPTIONS or (bool(_CODE.fullmatch(key)) and isinstance(value, list))


def _gallery(context: EvaluationContext, reader: SampleReader, language: str) -> Gallery:
    """Return the images that have texts of a language, with the embeddings of these."""
    whole = context.gallery
    if language == CAPTIONS:
        return whole
    texts = _texts(reader, whole.numbers.tolist(), language)
    rows = torch.tensor([row for row, of in enumerate(texts) if of], device=whole.numbers.device)
    kept = [of for of in texts if of]
    counts = torch.tensor([len(of) for of in kept], device=rows.device)
    return Gallery(
        whole.numbers[rows],
        whole.image_ids[rows],
        whole.images[rows],
        torch.arange(len(rows), device=rows.device).repeat_interleave(counts),
        embed_captions(
            context.method,
            [text for of in kept for text in of],
            context.dataset.tokenizer,
            context.config.batch_size,
            context.device,
        ),
        [whole.labels[row] for row in rows.tolist()],
    )


def _texts(reader: SampleReader, numbers: Sequence[int], language: str) -> list[list[str]]:
    """Return the usable texts of a language of each sample."""
    found: list[list[str]] = []
    for first in range(0, len(numbers), _AT_ONCE):
        for sample in reader.load(numbers[first : first + _AT_ONCE], ("json", "txt")):
            found.append([])
            with suppress(BadSample):
                found[-1] = sample.texts(language).kept
    return found


def _means(metrics: Metrics, name: str, languages: Sequence[str]) -> Metrics:
    """Return the means over languages of all metrics but the sizes."""
    prefix = f"{name}/{languages[0]}/"
    names = [one.removeprefix(prefix) for one in metrics if one.startswith(prefix)]
    return {
        f"{name}/{one}": sum(metrics[f"{name}/{of}/{one}"] for of in languages) / len(languages)
        for one in names
        if not one.startswith("num_")
    } | {f"{name}/num_languages": float(len(languages))}


def _rows(metrics: Mapping[str, float], name: str) -> dict[str, str]:
    """Return the prefix of the metrics of each language by its name, and of their means."""
    inner = (one.removeprefix(f"{name}/") for one in metrics if one.startswith(f"{name}/"))
    ending = f"/{HIGHER_IS_BETTER[-1]}"
    languages = [one.removesuffix(ending) for one in inner if one.endswith(ending)]
    return {one: f"{name}/{one}" for one in languages} | {"mean": name}

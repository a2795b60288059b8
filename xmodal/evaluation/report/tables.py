"""Results in the terminal: a table for each protocol, as wide whatever the terminal is."""

from collections.abc import Iterator, Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from xmodal.evaluation.metrics import visual
from xmodal.evaluation.metrics.average_precision import CUTOFF
from xmodal.evaluation.metrics.recall import CUTOFFS

Metrics = Mapping[str, float]
LABELS = {"image_to_text": "image → text", "text_to_image": "text → image"}
GAP_LABELS = {
    "centroid_distance": "centroids",
    "paired_cosine": "cosine",
    "probe_accuracy": "probe, %",
    "mmd": "MMD²",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "rmg": "RMG",
}
ZERO_SHOT_LABELS = {"top1": "top 1", "top5": "top 5", "mean_class_recall": "class recall"}
VISUAL_LABELS = {
    **{f"recall@{k}": f"R@{k}" for k in visual.CUTOFFS},
    "map@r": "mAP@R",
    "knn_accuracy": "k-NN",
    "nmi": "NMI",
    "ndcg": "nDCG",
    "ndcg@10": "nDCG@10",
}
WIDTH = 78  # so that log files read as well


def of_all(metrics: Metrics) -> Iterator[Table]:
    """Yield a table for each protocol that was measured."""
    for mark, table in TABLES.items():
        for protocol in protocols(metrics, mark):
            yield table(metrics, protocol)


def protocols(metrics: Metrics, mark: str) -> list[str]:
    """Return the protocols that have a metric named `mark`."""
    pairs = (name.split("/", 1) for name in metrics)
    return [protocol for protocol, *name in pairs if name == [mark]]


def recall_table(metrics: Metrics, protocol: str) -> Table:
    """Recalls in percent with chance beside them, and median ranks, of one protocol."""
    table = _table(f"{protocol}: {gallery_sizes(metrics, protocol)}")
    table.caption = f"rsum {rsum(metrics, protocol)}"
    _add_columns(table, "", *(column for k in CUTOFFS for column in (f"R@{k}", "chance")), "median")
    for direction, label in LABELS.items():
        prefix = f"{protocol}/{direction}"
        cells = _with_chance(metrics, *(f"{prefix}/recall@{k}" for k in CUTOFFS))
        table.add_row(label, *cells, f"{metrics[f'{prefix}/median_rank']:,.0f}")
    return table


def class_table(metrics: Metrics, protocol: str) -> Table:
    """Mean average precision in percent with chance beside it."""
    table = _table(f"{protocol}: {class_sizes(metrics, protocol)}")
    table.caption = f"mean mAP {mean_map(metrics, protocol)}"
    _add_columns(table, "", "mAP", "chance", f"mAP@{CUTOFF}", "chance", "queries")
    for direction, label in LABELS.items():
        prefix = f"{protocol}/{direction}"
        cells = _with_chance(metrics, f"{prefix}/map", f"{prefix}/map@{CUTOFF}")
        table.add_row(label, *cells, f"{metrics[f'{prefix}/queries']:,.0f}")
    return table


def gap_table(metrics: Metrics, protocol: str) -> Table:
    """The measures of the modality gap."""
    table = _table(f"{protocol}: {metrics[f'{protocol}/pairs']:,.0f} pairs")
    _add_columns(table, *GAP_LABELS.values())
    table.add_row(*(f"{metrics[f'{protocol}/{name}']:.3g}" for name in GAP_LABELS))
    return table


def zero_shot_table(metrics: Metrics, protocol: str) -> Table:
    """Accuracies of classification in percent with chance beside them."""
    table = _table(f"{protocol}: {images_and_classes(metrics, protocol)}")
    _add_columns(
        table, "", *(column for name in ZERO_SHOT_LABELS.values() for column in (name, "chance"))
    )
    names = (f"{protocol}/{name}" for name in ZERO_SHOT_LABELS)
    table.add_row("image → class", *_with_chance(metrics, *names))
    return table


def visual_table(metrics: Metrics, protocol: str) -> Table:
    """How well images find images, in percent, with chance where it is known."""
    table = _table(f"{protocol}: {images_and_classes(metrics, protocol)}")
    _add_columns(table, "", "%", "chance")
    for name, label in visual_labels(metrics, protocol).items():
        chance = metrics.get(f"{protocol}/{name}_chance")
        value = f"{metrics[f'{protocol}/{name}']:.1f}"
        table.add_row(label, value, "" if chance is None else percent(chance))
    return table


def composed_table(metrics: Metrics, protocol: str) -> Table:
    """Recalls of composed queries in percent with chance beside them, a column what is found."""
    table = _table(f"{protocol}: {composed_sizes(metrics, protocol)}")
    table.caption = composed_ranks(metrics, protocol)
    groups = composed_groups(metrics, protocol)
    _add_columns(
        table, "", *(c for name in groups for c in (name.removesuffix("/recall"), "chance"))
    )
    for k in sorted({k for cutoffs in groups.values() for k in cutoffs}):
        cells = [
            cell
            for name, cutoffs in groups.items()
            for cell in (
                _with_chance(metrics, f"{protocol}/{name}@{k}") if k in cutoffs else ("", "")
            )
        ]
        table.add_row(f"R@{k}", *cells)
    return table


# By the metric that tells what a protocol measures.
TABLES = {
    "rsum": recall_table,
    "map": class_table,
    "centroid_distance": gap_table,
    "top1": zero_shot_table,
    "map@r": visual_table,
    "ndcg": visual_table,
    "num_queries": composed_table,
}


def gallery_sizes(metrics: Metrics, protocol: str) -> str:
    """How many images and texts were ranked, in words."""
    images, texts = metrics[f"{protocol}/num_images"], metrics[f"{protocol}/num_texts"]
    return f"{images:,.0f} images × {texts:,.0f} texts"


def class_sizes(metrics: Metrics, protocol: str) -> str:
    """How many images, texts and classes there were, in words."""
    classes = metrics[f"{protocol}/num_classes"]
    return f"{gallery_sizes(metrics, protocol)}, {classes:,.0f} classes"


def images_and_classes(metrics: Metrics, protocol: str) -> str:
    """How many images and classes there were, in words."""
    images, classes = metrics[f"{protocol}/num_images"], metrics[f"{protocol}/num_classes"]
    return f"{images:,.0f} images × {classes:,.0f} classes"


def visual_labels(metrics: Metrics, protocol: str) -> dict[str, str]:
    """What the metrics of visual similarity that a protocol has are called."""
    labels = {n: label for n, label in VISUAL_LABELS.items() if f"{protocol}/{n}" in metrics}
    if "knn_accuracy" in labels:
        labels["knn_accuracy"] = f"{metrics[f'{protocol}/num_neighbours']:.0f}-NN"
    return labels


def composed_sizes(metrics: Metrics, protocol: str) -> str:
    """How many queries and images there were, in words."""
    queries, images = metrics[f"{protocol}/num_queries"], metrics[f"{protocol}/num_images"]
    return f"{queries:,.0f} queries × {images:,.0f} images"


def composed_ranks(metrics: Metrics, protocol: str) -> str:
    """The median rank of composed queries, and how many have nothing to find, in words."""
    words = f"median rank {metrics[f'{protocol}/median_rank']:,.0f}"
    lost = metrics[f"{protocol}/num_without_target"]
    return f"{words}; {lost:,.0f} queries without a right image" if lost else words


def composed_groups(metrics: Metrics, protocol: str) -> dict[str, list[int]]:
    """What recalls of composed queries a protocol has, such as `noun/recall`, and their K."""
    groups: dict[str, list[int]] = {}
    for name in metrics:
        head, _, k = name.rpartition("@")
        if head.startswith(f"{protocol}/") and k.isdecimal():
            groups.setdefault(head.removeprefix(f"{protocol}/"), []).append(int(k))
    return groups


def rsum(metrics: Metrics, protocol: str) -> str:
    """The sum of the six recalls, in words."""
    chance = percent(metrics[f"{protocol}/rsum_chance"])
    return f"{metrics[f'{protocol}/rsum']:.1f} of 600 (chance {chance})"


def mean_map(metrics: Metrics, protocol: str) -> str:
    """The mean of both directions' mean average precision, in words."""
    chance = percent(metrics[f"{protocol}/map_chance"])
    return f"{metrics[f'{protocol}/map']:.1f} (chance {chance})"


def percent(value: float) -> str:
    """A percentage with one decimal, small ones with two digits that count."""
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        caption_justify="left",
        width=WIDTH,
        box=box.SIMPLE_HEAD,
    )


def _add_columns(table: Table, *names: str) -> None:
    for name in names:
        style = "dim" if name == "chance" else None
        # A name of a category may be one of rich's markup.
        table.add_column(Text(name), justify="right" if name else "left", no_wrap=True, style=style)


def _with_chance(metrics: Metrics, *names: str) -> Iterator[str]:
    for name in names:
        yield f"{metrics[name]:.1f}"
        yield percent(metrics[f"{name}_chance"])

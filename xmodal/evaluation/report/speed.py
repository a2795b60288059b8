"""Speed of a stage of training, from its rows in metrics.jsonl: in a line, and on the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from xmodal.evaluation.report.section import Row, Section

TIME = "time/"  # begins the names of the shares of time
UNITS = {
    "samples_per_second": ("samples a second", "{:,.0f}"),
    "samples_per_second_per_device": ("samples a second and device", "{:,.0f}"),
    "tflops_per_device": ("model TFLOP/s a device", "{:,.3g}"),
    "mfu": ("MFU", "{:.1%}"),
    "peak_memory_gb": ("peak memory", "{:,.1f} GB"),
    "reserved_memory_gb": ("reserved memory", "{:,.1f} GB"),
}


def mean_speed(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean figures of the last stage that has them, by their names in metrics.jsonl.

    The first row, of a stage's slow first steps, counts only where there is no other; of memory
    the last figure is the greatest.
    """
    timed = [row for row in history if "samples_per_second" in row]
    rows = [row for row in timed if row.get("stage") == timed[-1].get("stage")]
    rows = rows[1:] or rows
    means = {}
    for name in [
        *UNITS,
        *dict.fromkeys(key for row in rows for key in row if key.startswith(TIME)),
    ]:
        values = [float(row[name]) for row in rows if name in row]
        if values:
            means[name] = values[-1] if "memory" in name else sum(values) / len(values)
    return means


def shares_of_time(speed: Mapping[str, float]) -> dict[str, float]:
    """Return the shares of the phases by their names, in the order of the log."""
    return {name.removeprefix(TIME): one for name, one in speed.items() if name.startswith(TIME)}


def speed_line(speed: Mapping[str, float]) -> str:
    """Return the shares of time in a line, of the phases that take one percent at least."""
    shares = shares_of_time(speed)
    return ", ".join(f"{name} {one:.0%}" for name, one in shares.items() if one >= 0.005)


def speed_section(history: Sequence[Mapping[str, Any]]) -> Section | None:
    """Return the figures as a table; None if the run has logged none."""
    speed = mean_speed(history)
    shares = shares_of_time(speed)
    if not shares:
        return None
    figures = [
        Row(label, [form.format(speed[k])]) for k, (label, form) in UNITS.items() if k in speed
    ]
    phases = [Row(f"time: {name}", [f"{one:.1%}"]) for name, one in shares.items()]
    return Section("", ["", "mean of the last stage"], [*figures, *phases])

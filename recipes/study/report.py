"""What came out of a study: means with intervals, against the paper's direction, as a table and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recipes.study.plan import Arm, Study

# 97.5% quantiles of Student's t for n - 1 degrees of freedom, n = 2, 3, … seeds.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
# δ1 as near as this counts as equal, once the whole interval is.
EQUAL_WITHIN = 0.05
ALL = "all kinds"
INK, FAINT, MEAN = "#1d2421", "#9aa5a0", "#0b6e5f"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of the seeds' values and half the width of its 95% interval by Student's t; 0 for a single seed.

    With more seeds than the table holds, its last quantile is taken: a little too wide.
    """
    n = len(values)
    if n < 2:
        return mean(values), 0.0
    return mean(values), T[min(n - 2, len(T) - 1)] * stdev(values) / n**0.5


def by_seed(study: Study, results: Sequence[dict[str, Any]], arm: Arm, kind: str, field: str = "delta1") -> list[float]:
    """An arm's δ1 of one kind, or the mean over the kinds (``ALL``), for each seed in order."""
    out = []
    for seed in study.seeds:
        found: dict[str, float] = {}
        for result in results:
            if (result["arm"], result["seed"]) == (arm.key, seed):
                found |= result[field] or {}
        if found:
            out.append(mean(found.values()) if kind == ALL else found[kind])
    return out


def seconds(study: Study, results: Sequence[dict[str, Any]], arm: Arm) -> list[float]:
    """An arm's training time for each seed, without loading and scoring."""
    return [sum(r["seconds"] for r in results if (r["arm"], r["seed"]) == (arm.key, seed)) for seed in study.seeds]


def verdict(arm: Arm, differences: Sequence[float]) -> str:
    """Whether the differences to the reference arm, seed by seed, go the paper's way."""
    centre, half = interval(differences)
    known = abs(centre) > half
    if arm.expected is None:
        return "–"
    if len(differences) < 2:
        return "one seed tells nothing"
    if arm.expected == "equal":
        if abs(centre) + half < EQUAL_WITHIN:
            return f"agrees: equal within {EQUAL_WITHIN}"
        return "disagrees" if known else "too few seeds to tell"
    if centre > 0:
        return "agrees" if known else "same direction, within the noise"
    return "disagrees" if known else "no difference found"


def table(study: Study, results: Sequence[dict[str, Any]]) -> str:
    """Markdown: one row per arm; δ1 before and after, the difference to the reference, the verdict, cost."""
    columns = [*study.kinds, ALL] if len(study.kinds) > 1 else list(study.kinds)
    names = [f"δ1 {column.replace('_', ' ')}" for column in columns]
    head = ["arm", "before", *names, f"against {study.arm(study.reference).label}", "paper's direction"]
    head += ["questions", "seconds"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    base = by_seed(study, results, study.arm(study.reference), columns[-1])
    for arm in study.arms:
        before = by_seed(study, [r for r in results if r["start"]], arm, columns[-1], "start")
        row = [arm.label, f"{before[0]:.3f}" if before else "–"]
        row += [_pm(*interval(by_seed(study, results, arm, column))) for column in columns]
        if arm.key == study.reference:
            row += ["", ""]
        else:
            own = by_seed(study, results, arm, columns[-1])
            differences = [a - b for a, b in zip(own, base, strict=True)]
            row += [_pm(*interval(differences), sign="+"), verdict(arm, differences)]
        asked = [r["samples"] for r in results if (r["arm"], r["seed"]) == (arm.key, study.seeds[0])]
        row += [f"{sum(asked):,}", f"{mean(seconds(study, results, arm)):.0f}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _pm(centre: float, half: float, sign: str = "") -> str:
    return f"{centre:{sign}.3f} ± {half:.3f}"


def report(study: Study, results: Sequence[dict[str, Any]], picture: str) -> str:
    """The study as a section of Markdown.

    Args:
        picture: path of the plot, as the Markdown shall name it.
    """
    start = next(r for r in results if r["arm"] == study.arms[0].key)["made_with"]["model_name_or_path"]
    sizes = "" if study.size == "small" else f" --size {study.size}"
    trained = f"{study.samples:,} questions, from `{start}`, unless the table says otherwise"
    noise = 1.96 * 0.5 / (study.questions * len(study.kinds)) ** 0.5  # of a share of one half
    asked = f"{study.questions * len(study.kinds):,} questions about scenes and cameras of no training store"
    return f"""\
## {study.title}

`depthlm study {study.name}{sizes}`

The paper: {study.claim}

{table(study, results)}
![δ1 of each arm]({picture})

{study.notes}

Seeds: {len(study.seeds)}. Each arm is trained on {trained}, and asked {asked}.
Means over the seeds; ± is the 95% interval over seeds by Student's t. The questions are the same for all seeds, and
others would move all arms by about ±{noise:.2f} together. Seconds are of training alone, on {study.hardware},
{study.jobs} at a time.
"""


def plot(study: Study, results: Sequence[dict[str, Any]], path: Path) -> Path:
    """A panel for each kind: every seed a dot, the mean with its interval a bar."""
    columns = [*study.kinds, ALL] if len(study.kinds) > 1 else list(study.kinds)
    across = min(4, len(columns))
    down = -(-len(columns) // across)
    figure = Figure(figsize=(2.2 + 2.6 * across, down * (1.0 + 0.38 * len(study.arms))), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    for axis in axes.ravel()[len(columns) :]:
        axis.set_axis_off()
    for axis, column in zip(axes.ravel(), columns, strict=False):
        for row, arm in enumerate(study.arms):
            values = by_seed(study, results, arm, column)
            centre, half = interval(values)
            axis.errorbar(centre, row, xerr=half, fmt="o", color=MEAN, capsize=4, markersize=7, zorder=3)
            axis.scatter(values, [row + 0.22] * len(values), s=14, color=FAINT, zorder=2)
        axis.set_title(column.replace("_", " "), fontsize=10, color=INK)
        axis.set_xlabel("δ1")
        axis.grid(axis="x", color="#e3e8e6", linewidth=0.8)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    first = axes[0, 0]
    first.set_yticks(range(len(study.arms)), [arm.label for arm in study.arms])
    first.set_ylim(len(study.arms) - 0.4, -0.6)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
    return path

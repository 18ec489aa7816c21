"""What came out of a study: means with intervals, against the paper's direction, as a table and a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from recipes.study.plan import Arm, Study

# 97.5% quantiles of Student's t for n - 1 degrees of freedom, n = 2, 3, … seeds.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
# δ1 as near as this counts as equal, once the whole interval is.
EQUAL_WITHIN = 0.05
ALL = "all kinds"
NANO_HAS_SEEN = "`nano` itself was made with other drawn scenes, of cameras of 40–110° brought to one focal length."
Floats, Integers = NDArray[np.float64], NDArray[np.int64]
INK, FAINT, MEAN = "#1d2421", "#9aa5a0", "#0b6e5f"


@dataclass(frozen=True)
class Outcome:
    """Whether answers were right, for a set of questions asked of a model of each seed.

    Args:
        right: (seeds, questions) 1 or 0; of a difference between two arms -1, 0 or 1.
        kinds: (questions,) number of each one's kind; kinds weigh the same however many questions each has.
        scenes: (questions,) number of the scene that each is about.
    """

    right: Floats
    kinds: Integers
    scenes: Integers

    def __sub__(self, other: Outcome) -> Outcome:
        return replace(self, right=self.right - other.right)

    @property
    def weights(self) -> Floats:
        """(questions,) They add up to 1."""
        counts = np.bincount(self.kinds)
        return 1 / (len(counts) * counts[self.kinds])

    @property
    def by_seed(self) -> Floats:
        """(seeds,) δ1."""
        return self.right @ self.weights

    def interval(self) -> tuple[float, float]:
        """Mean, and half the width of its 95% interval.

        Two variances are added: between the seeds (Student's t; with more seeds than the table holds its last quantile,
        a little too wide), and between the questions, those of one scene together: other seeds, and other scenes,
        would have given another number.
        """
        centre, of_question = float(self.by_seed.mean()), self.right.mean(axis=0)
        of_kind = np.bincount(self.kinds, of_question) / np.bincount(self.kinds)
        sums = np.bincount(self.scenes, self.weights * (of_question - of_kind[self.kinds]))
        variance = len(sums) / max(1, len(sums) - 1) * float(sums @ sums)
        half_squared = 1.96**2 * variance
        seeds = len(self.right)
        if seeds > 1:
            half_squared += T[min(seeds - 2, len(T) - 1)] ** 2 * float(self.by_seed.var(ddof=1)) / seeds
        return centre, math.sqrt(half_squared)


def shared_questions(study: Study, results: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """By kind, the questions that every arm was asked: one out of sight in one arm's images is asked in none."""
    return {
        kind: sorted(set.intersection(*(set(r["right"][kind]) for r in results if kind in r["right"])))
        for kind in study.kinds
    }


def outcome(
    study: Study,
    results: Sequence[dict[str, Any]],
    arm: Arm,
    kinds: Sequence[str],
    asked: Mapping[str, Sequence[str]],
    field: Literal["right", "start"] = "right",
) -> Outcome | None:
    """An arm's answers to the shared questions of some kinds, after training or before; None where there are none."""
    rows = []
    for seed in study.seeds:
        found: dict[str, dict[str, bool]] = {}
        for result in results:
            if (result["arm"], result["seed"]) == (arm.key, seed):
                found |= result[field] or {}
        if found:
            rows.append([found[kind][question] for kind in kinds for question in asked[kind]])
    if not rows:
        return None
    of_kind = np.repeat(np.arange(len(kinds)), [len(asked[kind]) for kind in kinds])
    frames = [question.split(" ")[0] for kind in kinds for question in asked[kind]]
    names = [frame.rpartition("/")[0] or frame for frame in frames]
    return Outcome(np.array(rows, np.float64), of_kind, np.unique(names, return_inverse=True)[1])


def seconds(study: Study, results: Sequence[dict[str, Any]], arm: Arm) -> list[float]:
    """An arm's training time for each seed, without loading and scoring."""
    return [sum(r["seconds"] for r in results if (r["arm"], r["seed"]) == (arm.key, seed)) for seed in study.seeds]


def verdict(arm: Arm, difference: Outcome) -> str:
    """The paper's direction against the reference arm, and whether the difference goes that way."""
    if arm.expected is None:
        return "none given"
    if len(difference.right) < 2:
        return f"{arm.expected}: one seed tells nothing"
    centre, half = difference.interval()
    known = abs(centre) > half
    if arm.expected == "equal":
        found = "disagrees" if known else "too few seeds or questions to tell"
        if abs(centre) + half < EQUAL_WITHIN:
            found = f"agrees, within {EQUAL_WITHIN}"
    elif centre > 0:
        found = "agrees" if known else "same direction, within the noise"
    else:
        found = "disagrees" if known else "no difference found"
    return f"{arm.expected}: {found}"


def columns(study: Study) -> dict[str, Sequence[str]]:
    """Of the table and the plot: its name, and the kinds it is about."""
    out: dict[str, Sequence[str]] = {kind: [kind] for kind in study.kinds}
    return out | ({ALL: study.kinds} if len(study.kinds) > 1 else {})


def table(study: Study, results: Sequence[dict[str, Any]]) -> str:
    """Markdown: one row per arm; δ1 before and after, the difference to the reference, the verdict, cost."""
    shown, asked = columns(study), shared_questions(study, results)
    judged = study.judged or list(shown)[-1]
    reference = study.arm(study.reference)
    names = [f"δ1 {column.replace('_', ' ')}" for column in shown]
    on = f" ({judged.replace('_', ' ')})" if len(shown) > 1 else ""
    head = ["arm", f"before{on}", *names, f"against {reference.label}{on}", "paper's direction"]
    timed = any(
        arm.longer or arm.as_long_as for arm in study.arms
    )  # elsewhere all train alike, and a busy machine would mislead
    head += ["questions"] + (["seconds", "time"] if timed else [])
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    base = outcome(study, results, reference, shown[judged], asked)
    usual = mean(seconds(study, results, reference))
    for arm in study.arms:
        before = outcome(study, results, arm, shown[judged], asked, "start")
        row = [arm.label, f"{before.interval()[0]:.3f}" if before else "–"]
        for kinds in shown.values():
            after = outcome(study, results, arm, kinds, asked)
            row.append(_pm(*after.interval()) if after else "–")
        own = outcome(study, results, arm, shown[judged], asked)
        if arm.key == study.reference or own is None or base is None:
            row += ["", ""]
        else:
            row += [_pm(*(own - base).interval(), sign="+"), verdict(arm, own - base)]
        trained = [r["samples"] for r in results if (r["arm"], r["seed"]) == (arm.key, study.seeds[0])]
        row.append(f"{sum(trained):,}")
        if timed:
            took = mean(seconds(study, results, arm))
            row += [f"{took:.0f}", f"{took / usual:.1f}×" + (f" (paper: {arm.longer})" if arm.longer else "")]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


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
    asked = sum(map(len, shared_questions(study, results).values()))
    timed = "Seconds are of training alone. " if any(arm.longer or arm.as_long_as for arm in study.arms) else ""
    return f"""\
## {study.title}

`depthlm study {study.name}{sizes}`

The paper: {study.claim}

{table(study, results)}
![δ1 of each arm]({picture})

{study.notes}

{_count(len(study.seeds), "seed")} on {study.hardware}, {_count(study.jobs, "run")} at a time. Each arm is trained on
{trained}, and asked the same {asked:,} questions about scenes and cameras of no training store of this study.
± is half a 95% interval, over seeds and scenes. {timed}{NANO_HAS_SEEN if start == "nano" else ""}
"""


def plot(study: Study, results: Sequence[dict[str, Any]], path: Path) -> Path:
    """A panel for each kind: every seed a dot, the mean with its interval a bar."""
    shown, asked = columns(study), shared_questions(study, results)
    across = min(4, len(shown))
    down = -(-len(shown) // across)
    figure = Figure(figsize=(2.2 + 2.6 * across, down * (1.0 + 0.38 * len(study.arms))), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    for axis in axes.ravel()[len(shown) :]:
        axis.set_axis_off()
    for axis, column in zip(axes.ravel(), shown, strict=False):
        for row, arm in enumerate(study.arms):
            after = outcome(study, results, arm, shown[column], asked)
            if after is None:
                continue
            centre, half = after.interval()
            axis.errorbar(centre, row, xerr=half, fmt="o", color=MEAN, capsize=4, markersize=7, zorder=3)
            axis.scatter(after.by_seed, [row + 0.22] * len(after.by_seed), s=14, color=FAINT, zorder=2)
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

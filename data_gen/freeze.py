"""Frame stores -> a frozen suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from depthlm.dataset import EQUAL_MIX, find_partner
from depthlm.errors import DepthLMError, SkipReport
from depthlm.frame import Frame
from depthlm.profiles import PROFILES
from depthlm.prompt import INTRINSICS_MODES
from depthlm.questions import KINDS, Kind
from depthlm.sample import make_sample
from depthlm.store import FrameStore
from depthlm.suite import Suite, SuiteWriter

# Labels of one frame that may be asked about: a dense map has many more than any suite needs.
MAX_LABELS = 4096


def freeze(
    stores: list[Path],
    out: Path,
    count: int,
    seed: int = 0,
    mix: dict[str, float] | None = None,
    profile: str = "qwen2.5-vl",
    name: str = "custom",
    intrinsics: str = "normalize",
) -> tuple[Suite, SkipReport]:
    """Freeze ``count`` questions, divided among the kinds by ``mix`` and spread evenly over the stores' frames.

    No (kind, frame, label) is asked twice. A label that can't be asked (outside the canonical image, no room for its
    marker) is skipped and counted, never replaced in silence; a kind that runs out of labels gets fewer questions.

    Raises:
        DepthLMError: an empty store, an unknown kind, profile or mode, or no question at all.
    """
    if intrinsics not in INTRINSICS_MODES:
        raise DepthLMError("intrinsics", f"unknown mode {intrinsics!r}", f"one of {INTRINSICS_MODES}")
    mix = mix or EQUAL_MIX
    kinds = [KINDS.get(key) for key in mix]
    opened = [FrameStore(path) for path in stores]
    chosen, report = PROFILES.get(profile), SkipReport()
    writer = SuiteWriter(out)
    shares = np.array(list(mix.values()), np.float64)
    counts = np.diff(np.rint(np.concatenate([[0], np.cumsum(shares / shares.sum())]) * count).astype(int))
    bar = tqdm(total=count, desc=f"freeze {name}", unit="question")
    for k, (kind, wanted) in enumerate(zip(kinds, counts, strict=True)):
        rng = np.random.default_rng([seed, k])
        made = 0
        for store, index, labels in _candidates(opened, kind, rng):
            if made == wanted:
                break
            try:
                frames = _frames(store, index, kind, rng)
                sample_id = f"{kind.name}-{made:06d}"
                sample = make_sample(frames, [kind], rng, chosen, intrinsics, labels=labels, sample_id=sample_id)  # type: ignore[arg-type]
            except DepthLMError as error:
                report.add(error)
                continue
            writer.add(sample)
            made += 1
            bar.update()
        if made < wanted:
            report.count(
                "too few labels", f"{kind.name}: {made} of {wanted} questions could be made", int(wanted - made)
            )
    bar.close()
    settings: dict[str, Any] = {
        "stores": [path.name for path in stores],
        "seed": seed,
        "mix": mix,
        "profile": profile,
        "intrinsics": intrinsics,
        "skipped": report.to_dict(),
    }
    return writer.finish(name, settings), report


def _candidates(
    stores: list[FrameStore], kind: Kind, rng: np.random.Generator
) -> Iterator[tuple[FrameStore, int, list[int]]]:
    """(store, frame, labels): pass after pass over all frames in random order, each pass with fresh labels."""
    frames = [(s, i) for s, store in enumerate(stores) for i in range(len(store))]
    order = rng.permutation(len(frames))
    remaining: dict[int, np.ndarray] = {}
    alive = list(order)
    while alive:
        still = []
        for f in alive:
            s, i = frames[f]
            if kind.points == 0:
                yield stores[s], i, []
                continue
            if f not in remaining:
                remaining[f] = rng.permutation(len(stores[s][i].labels[1]))[:MAX_LABELS]
            take, remaining[f] = remaining[f][: kind.points], remaining[f][kind.points :]
            if len(take) == kind.points:
                yield stores[s], i, [int(v) for v in take]
                still.append(f)
        alive = still


def _frames(store: FrameStore, index: int, kind: Kind, rng: np.random.Generator) -> list[Frame]:
    frame = store[index]
    if kind.images == 1:
        return [frame]
    partner = find_partner(store, index, frame, rng)
    if partner is None:
        raise DepthLMError(
            f"frame {frame.id}", "no overlapping view of its scene with another position", kind="no pair"
        )
    return [frame, partner]

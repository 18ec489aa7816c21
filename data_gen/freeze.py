"""Frame stores -> a frozen suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from depthlm.dataset import EQUAL_MIX, normalized
from depthlm.errors import DepthLMError, SkipReport
from depthlm.frame import Frame
from depthlm.pairs import PairRule, find_partner
from depthlm.profiles import PROFILES
from depthlm.prompt import INTRINSICS_MODES, POINTINGS
from depthlm.questions import KINDS, Kind
from depthlm.sample import Rendered, Sample, make_sample, render_frame
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
    pointing: str = "marker",
    pair_overlap: Sequence[float] = (PairRule.min_overlap, PairRule.max_overlap),
    pair_motion_m: float = PairRule.min_motion_m,
) -> tuple[Suite, SkipReport]:
    """Freeze ``count`` questions, divided among the kinds by ``mix`` and spread evenly over the stores' frames.

    No (kind, frame, label) is asked twice. A label that can't be asked (outside the canonical image, no room for its
    marker) is skipped and counted, never replaced in silence; a kind that runs out of labels gets fewer questions.
    What is asked of one kind does not depend on which other kinds are asked.

    Args:
        pair_overlap, pair_motion_m: which two frames are asked about together, see `depthlm.pairs.PairRule`.

    Raises:
        DepthLMError: an empty store, bounds without a pair, an unknown kind, profile or mode, or no question.
    """
    if intrinsics not in INTRINSICS_MODES:
        raise DepthLMError("intrinsics", f"unknown mode {intrinsics!r}", f"one of {INTRINSICS_MODES}")
    if pointing not in POINTINGS:
        raise DepthLMError("pointing", f"unknown mode {pointing!r}", f"one of {POINTINGS}")
    mix = mix or EQUAL_MIX
    kinds = [KINDS.get(key) for key in mix]
    opened = [FrameStore(path) for path in stores]
    chosen, report = PROFILES.get(profile), SkipReport()
    if len(pair_overlap) != 2:
        raise DepthLMError("pair_overlap", f"got {len(pair_overlap)} numbers", "give the least and the largest")
    rule = PairRule(*pair_overlap, pair_motion_m)
    writer = SuiteWriter(out)
    shares = normalized("mix", list(mix.values()))
    counts = np.diff(np.rint(np.concatenate([[0], np.cumsum(shares)]) * count).astype(int))
    bar = tqdm(total=count, desc=f"freeze {name}", unit="question")
    for kind, wanted in zip(kinds, counts, strict=True):
        made = 0
        render = partial(render_frame, profile=chosen, intrinsics=intrinsics)
        ask = partial(make_sample, kinds=[kind], profile=chosen, intrinsics=intrinsics, pointing=pointing)
        for sample in _samples(opened, kind, int(wanted), seed, rule, report, render, ask):
            writer.add(sample)
            made += 1
            bar.update()
        if made < wanted:
            report.count("too few labels", f"{kind.name}: {made} of {wanted} could be asked", int(wanted - made))
    bar.close()
    settings: dict[str, Any] = {
        "stores": [path.name for path in stores],
        "seed": seed,
        "mix": mix,
        "profile": profile,
        "intrinsics": intrinsics,
        "pointing": pointing,
        "pair_overlap": list(pair_overlap),
        "pair_motion_m": pair_motion_m,
        "skipped": report.to_dict(),
    }
    return writer.finish(name, settings), report


def _samples(
    stores: list[FrameStore],
    kind: Kind,
    wanted: int,
    seed: int,
    rule: PairRule,
    report: SkipReport,
    render: Callable[[Frame], Rendered],
    ask: Callable[..., Sample],
) -> Iterator[Sample]:
    """Up to ``wanted`` samples of one kind, as evenly over the frames as their labels allow; each frame is decoded once
    a pass, and a second pass is only made when the first did not suffice.

    Every frame has a chance of its own, so that a label which one way of asking can't ask about, outside its window
    say, changes nothing for the other frames.
    """
    frames = [(store, i) for store in stores for i in range(len(store))]
    words = [seed, *kind.name.encode()]
    alive = [int(f) for f in np.random.default_rng(words).permutation(len(frames))]
    unused: dict[int, list[int]] = {}
    rngs: dict[int, np.random.Generator] = {}
    made = 0
    while alive and made < wanted:
        share, still = -(-(wanted - made) // len(alive)), []
        for f in alive:
            store, index = frames[f]
            rng = rngs.setdefault(f, np.random.default_rng([*words, f]))
            try:
                views = _frames(store, index, kind, rng, rule)
                rendered = [render(view) for view in views]
            except DepthLMError as error:
                report.add(error)
                continue
            if f not in unused:
                unused[f] = rng.permutation(len(views[0].labels[1]))[:MAX_LABELS].tolist()
            got = 0
            while got < share and made < wanted and len(unused[f]) >= kind.points:
                labels, unused[f] = unused[f][: kind.points], unused[f][kind.points :]
                try:
                    sample_id = f"{kind.name}-{made:06d}"
                    sample = ask(views, rng=rng, labels=labels, rendered=rendered, sample_id=sample_id)
                except DepthLMError as error:
                    report.add(error)
                    if kind.points == 0:
                        break
                    continue
                yield sample
                got, made = got + 1, made + 1
                if kind.points == 0:  # a pair is asked once
                    unused[f] = []
                    break
            if kind.points and len(unused[f]) >= kind.points:
                still.append(f)
            if made == wanted:
                return
        alive = still


def _frames(store: FrameStore, index: int, kind: Kind, rng: np.random.Generator, rule: PairRule) -> list[Frame]:
    frame = store[index]
    if kind.images == 1:
        return [frame]
    partner = find_partner(store, index, frame, rng, rule)
    if partner is None:
        raise DepthLMError(
            f"frame {frame.id}", "no overlapping view of its scene with another position", kind="no pair"
        )
    return [frame, partner]

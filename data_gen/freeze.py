"""Frame stores -> a frozen suite: questions, and the frames that they are about. Nothing is drawn here."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from depthlm.camera import Camera
from depthlm.canonical import View, plan_view
from depthlm.dataset import EQUAL_MIX, normalized
from depthlm.errors import DepthLMError, SkipReport
from depthlm.frame import Frame
from depthlm.pairs import PairRule, find_partner
from depthlm.profiles import PROFILES, Profile
from depthlm.prompt import INTRINSICS_MODES, POINTINGS
from depthlm.questions import KINDS, Kind
from depthlm.sample import MAX_Z_M, MIN_Z_M, Plan, plan_sample
from depthlm.store import FrameStore
from depthlm.suite import Item, Suite, SuiteWriter

# Labels of one frame that may be asked about: a dense map has many more than any suite needs.
MAX_LABELS = 4096
# What "distance" meant in a published evaluation, where that was not the distance.
PUBLISHED = ("distance", "z")
# What a row tells of a marked point: what is the same in every profile.
POINT_FIELDS = ("colour", "source_xy", "z", "distance")
# A part's name, and a store's within ids, which may hold nothing else.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Part:
    """Questions about the frames of some stores.

    Args:
        stores: frame store folders.
        count: questions, divided among the kinds by ``mix`` and spread evenly over the frames.
        mix: question kind -> weight; all six equally by default.
        name: begins the ids of its questions; needed where a suite has several parts.
        dataset: what its questions are counted as; by default what the frames say.
        per_image: questions of one kind about one frame, the frames being as few as suffice; where all of them don't,
            they are asked about further, evenly. None: all frames are asked about, each as little as possible.
        scale: the published truth over the true one.
        truth_is: what the published truth of a distance is: "distance", or the depth "z".
    """

    stores: Sequence[Path]
    count: int
    mix: Mapping[str, float] | None = None
    name: str = ""
    dataset: str | None = None
    per_image: int | None = None
    scale: float = 1.0
    truth_is: str = "distance"

    @property
    def shares(self) -> dict[str, float]:
        """Question kind -> weight."""
        return dict(self.mix or EQUAL_MIX)

    def check(self) -> None:
        """Refuse settings that can't be; the stores are not looked at.

        Raises:
            DepthLMError: an unknown kind, wrong weights or numbers, a store given twice, or a published truth of a kind
                of which none is known.
        """
        kinds = [KINDS.get(key).name for key in self.shares]
        normalized("mix", list(self.shares.values()))
        if self.name and not NAME.fullmatch(self.name):
            raise DepthLMError(f"part {self.name!r}", "is no name", "letters, digits and ._- only")
        for name, value in (("count", self.count), ("per_image", self.per_image)):
            if value is not None and value < 1:
                raise DepthLMError(name, f"is {value}", "give 1 or more")
        stores = Counter(path.resolve() for path in self.stores)
        if stores and stores.most_common(1)[0][1] > 1:
            path = stores.most_common(1)[0][0]
            raise DepthLMError(path, "is given twice", "its labels would be asked twice; give each store once")
        if self.truth_is not in PUBLISHED:
            raise DepthLMError("truth_is", f"is {self.truth_is!r}", f"one of {', '.join(PUBLISHED)}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise DepthLMError("scale", f"is {self.scale}", "give a positive number")
        if (self.scale != 1 or self.truth_is != "distance") and kinds != ["distance"]:
            raise DepthLMError("mix", "a published truth is known of distances alone", "ask for distance alone")


@dataclass(frozen=True)
class Asking:
    """How a suite asks.

    Args:
        profile: the suite's own, in which its rows are written.
        also: further profiles by which every question can be asked.
        intrinsics: how the camera ambiguity is removed.
        pointing: by a marker, or by coordinates.
        pair_overlap, pair_motion_m: which two frames are asked about together, see `depthlm.pairs.PairRule`.
        dense: keep the frames' dense depth, for metrics of whole depth maps.
        seed: decides which labels are asked.
    """

    profile: str = "qwen2.5-vl"
    also: Sequence[str] = ()
    intrinsics: str = "normalize"
    pointing: str = "marker"
    pair_overlap: Sequence[float] = (PairRule.min_overlap, PairRule.max_overlap)
    pair_motion_m: float = PairRule.min_motion_m
    dense: bool = False
    seed: int = 0

    def check(self) -> None:
        """Refuse settings that can't be.

        Raises:
            DepthLMError: an unknown profile or mode, a negative seed, or bounds without a pair.
        """
        if self.seed < 0:
            raise DepthLMError("seed", f"is {self.seed}", "give 0 or more")
        if self.intrinsics not in INTRINSICS_MODES:
            raise DepthLMError("intrinsics", f"unknown mode {self.intrinsics!r}", f"one of {INTRINSICS_MODES}")
        if self.pointing not in POINTINGS:
            raise DepthLMError("pointing", f"unknown mode {self.pointing!r}", f"one of {POINTINGS}")
        if len(self.pair_overlap) != 2:
            got = len(self.pair_overlap)
            raise DepthLMError("pair_overlap", f"got {got} numbers", "give the least and the largest")
        _ = self.profiles, self.rule

    @cached_property
    def profiles(self) -> list[Profile]:
        """The suite's own first."""
        return [PROFILES.get(name) for name in (self.profile, *self.also)]

    @cached_property
    def rule(self) -> PairRule:
        return PairRule(*self.pair_overlap, self.pair_motion_m)


def freeze(
    parts: Sequence[Part],
    out: Path,
    asking: Asking | None = None,
    name: str = "custom",
    more: Mapping[str, Any] | None = None,
    report: SkipReport | None = None,
) -> tuple[Suite, SkipReport]:
    """Freeze the questions of all parts into one suite.

    No (kind, frame, label) is asked twice within a part. A label that can't be asked (outside the canonical image, no
    room for its marker) is skipped and counted, never replaced in silence; a kind that runs out of labels gets fewer
    questions.
    What is asked of one kind does not depend on which other kinds are asked.

    Args:
        more: further settings to note in suite.json, e.g. its form and footnotes.
        report: of what was skipped before; this one's skips are counted in it.

    Raises:
        DepthLMError: an empty store, settings that can't be, parts without a name, or no question.
    """
    asking = asking or Asking()
    asking.check()
    for part in parts:
        part.check()
    names = [part.name for part in parts]
    if len(parts) != 1 and (len(set(names)) < len(names) or "" in names):
        raise DepthLMError("parts", "have no names of their own", "name each part otherwise")
    writer, report = SuiteWriter(out), report or SkipReport()
    questions = [_Part(part, asking, report) for part in parts]
    with tqdm(total=sum(part.count for part in parts), desc=f"freeze {name}", unit="question") as bar:
        items = [item for part in questions for item in part.items(bar)]
    frames = (frame for part in questions for frame in part.asked_frames())
    hashes = writer.write_frames(tqdm(frames, desc="frames", unit="frame", total=sum(len(p.asked) for p in questions)))
    for item in items:
        writer.add(replace(item, frame_hashes=[hashes[frame_id] for frame_id in item.frame_ids]))
    settings: dict[str, Any] = {
        "parts": [_part_settings(part) for part in parts],
        **{key: list(value) if isinstance(value, tuple) else value for key, value in vars(asking).items()},
        **(more or {}),
        "skipped": report.to_dict(),
    }
    for cached in ("profiles", "rule"):
        settings.pop(cached, None)
    return writer.finish(name, settings), report


def _part_settings(part: Part) -> dict[str, Any]:
    plain = {key: value for key, value in vars(part).items() if key != "stores"}
    return {**plain, "stores": [path.name for path in part.stores], "mix": part.shares}


class _Part:
    """The questions of one part, and which labels of which frames they are about."""

    def __init__(self, part: Part, asking: Asking, report: SkipReport) -> None:
        self.part, self.asking, self.report = part, asking, report
        self.kinds = [KINDS.get(key) for key in part.shares]
        shares = normalized("mix", list(part.shares.values()))
        self.counts = np.diff(np.rint(np.concatenate([[0], np.cumsum(shares)]) * part.count).astype(int))
        self.stores = [FrameStore(path) for path in part.stores]
        self.frames = [(store, i) for store in range(len(self.stores)) for i in range(len(self.stores[store]))]
        # (store, row) -> the labels that are asked, in the order in which they are stored
        self.asked: dict[tuple[int, int], dict[int, None]] = {}

    def items(self, bar: tqdm[Any]) -> list[Item]:
        """All questions, those about one frame in a row, without the frames' hashes."""
        made = []
        for kind, wanted in zip(self.kinds, self.counts, strict=True):
            got = list(self._of_kind(kind, int(wanted), bar))
            if len(got) < wanted:
                reason = f"{kind.name}: {len(got)} of {wanted} could be asked"
                self.report.count("too few labels", reason, int(wanted - len(got)))
            got.sort(key=lambda question: question.keys)
            made += [self._item(i, question) for i, question in enumerate(got)]
        return made

    def asked_frames(self) -> Iterator[Frame]:
        """The frames, each with the labels alone that are asked."""
        for (store, row), labels in sorted(self.asked.items()):
            frame = self.stores[store][row]
            picked = list(labels)
            xy, z = frame.labels
            yield replace(
                frame,
                id=self._frame_id(store, frame.id),
                dataset=self.part.dataset or frame.dataset,
                xy=xy[picked] if picked else xy[:1],  # a frame has to have a label, also where motion alone is asked
                z=z[picked] if picked else z[:1],
                depth=frame.depth if self.asking.dense else None,
            )

    def _of_kind(self, kind: Kind, wanted: int, bar: tqdm[Any]) -> Iterator[_Question]:
        """Up to ``wanted`` questions of one kind, in as many rounds over the frames as it takes."""
        words = [self.asking.seed, *kind.name.encode()]
        order = np.random.default_rng(words).permutation(len(self.frames))
        alive = [_Asked(int(f), [*words, int(f)]) for f in order]
        share, made = self.part.per_image, 0
        while alive and made < wanted:
            # evenly, but for the first round over few frames: what is left over goes to other frames in the next one
            share, still = share or max(1, (wanted - made) // len(alive)), []
            for asked in alive:
                for question in self._about(asked, kind, min(share, wanted - made)):
                    made += 1
                    bar.update()
                    yield question
                if made == wanted:
                    return
                if asked.left:
                    still.append(asked)
            share, alive = None, still

    def _about(self, asked: _Asked, kind: Kind, most: int) -> Iterator[_Question]:
        """Further questions about one frame; once none are left, ``asked.left`` is False."""
        try:
            keys, views = self._views(asked.frame, kind, asked.rng)
            planned = [[self._view(view, profile) for view in views] for profile in self.asking.profiles]
        except DepthLMError as error:
            self.report.add(error)
            asked.left = False
            return
        asked.begin(views[0], [own for own, *_ in planned], kind)
        if not asked.left:
            self.report.count("no usable point", f"frame {views[0].id}: too few of its labels can be asked about")
        made = 0
        while made < most and asked.left:
            labels, skipped = asked.take(kind)
            if skipped:
                reason = f"frame {views[0].id}: a label outside a profile's image, or of no depth that is asked about"
                self.report.count("no usable point", reason, skipped)
            try:
                plan = self._plan(views, planned, kind, asked.rng, labels)
            except DepthLMError as error:
                self.report.add(error)
                continue
            yield _Question(kind, keys, labels, plan, [v.id for v in views], views[0].dataset, views[0].camera)
            made += 1

    def _views(self, f: int, kind: Kind, rng: np.random.Generator) -> tuple[tuple[tuple[int, int], ...], list[Frame]]:
        number, row = self.frames[f]
        store = self.stores[number]
        frame = store[row]
        if kind.images == 1:
            return ((number, row),), [frame]
        partner = find_partner(store, row, frame, rng, self.asking.rule)
        if partner is None:
            reason = "no overlapping view of its scene with another position"
            raise DepthLMError(f"frame {frame.id}", reason, kind="no pair")
        return ((number, row), (number, self._row(number, partner.id))), [frame, partner]

    def _row(self, store: int, frame_id: str) -> int:
        if store not in self._ids:
            self._ids[store] = {name: row for row, name in enumerate(self.stores[store].ids)}
        return self._ids[store][frame_id]

    @cached_property
    def _ids(self) -> dict[int, dict[str, int]]:
        return {}

    def _view(self, frame: Frame, profile: Profile) -> View:
        return plan_view(frame.camera, profile.canonical(self.asking.intrinsics))  # type: ignore[arg-type]  # checked

    def _plan(
        self, frames: list[Frame], planned: list[list[View]], kind: Kind, rng: np.random.Generator, labels: list[int]
    ) -> Plan:
        """The question in the suite's own profile, once every profile can ask it."""
        wordings, plan = [kind.draw(rng)], None
        for profile, views in zip(self.asking.profiles, planned, strict=True):
            made = plan_sample(
                frames,
                views,
                [kind],
                rng,
                profile,
                self.asking.intrinsics,  # type: ignore[arg-type]  # checked
                labels=labels,
                wordings=wordings,
                pointing=self.asking.pointing,  # type: ignore[arg-type]  # checked
            )
            plan = plan or made
        assert plan is not None
        return plan

    def _item(self, number: int, question: _Question) -> Item:
        turn, wording = question.plan.turns[0], question.plan.wordings[0]
        camera = question.camera
        places = [self.asked.setdefault(key, {}) for key in question.keys]
        for label in question.labels:
            places[0].setdefault(label)
        order = list(places[0])
        truth, answer = turn.truth, turn.answer
        if self.part.truth_is == "z" or self.part.scale != 1:
            truth = (turn.points[0]["z"] if self.part.truth_is == "z" else truth) * self.part.scale
            answer = f"{truth:.2f}"
        prefix = f"{self.part.name}/" if self.part.name else ""
        return Item(
            id=f"{prefix}{question.kind.name}-{number:06d}",
            kind=question.kind.name,
            dataset=self.part.dataset or question.dataset,
            frame_ids=[
                self._frame_id(store, name) for (store, _), name in zip(question.keys, question.frame_ids, strict=True)
            ],
            question=turn.question,
            answer=answer,
            truth=truth,
            unit=turn.unit,
            labels=[order.index(label) for label in question.labels],
            phrasing=wording.phrasing,
            given=wording.given,
            points=[{name: point[name] for name in POINT_FIELDS} for point in turn.points],
            camera={
                "width": camera.width,
                "height": camera.height,
                "fov_deg": [round(v, 3) for v in camera.fov_deg],
            },
        )

    def _frame_id(self, store: int, frame_id: str) -> str:
        """Its id within the suite: frames of several stores may have the same in theirs."""
        folder = re.sub(r"[^A-Za-z0-9._-]", "-", self.part.stores[store].name)
        several = [folder, str(store)] if len(self.stores) > 1 else []
        return "/".join([*filter(None, [self.part.name]), *several, frame_id])


class _Asked:
    """One kind's way through a frame's labels. Each frame has a chance of its own: a label that can't be asked about
    changes nothing for the others.
    """

    def __init__(self, frame: int, words: list[int]) -> None:
        self.frame, self.left, self._words = frame, True, words
        self._usable: NDArray[np.int32] | None = None
        self._places: NDArray[np.int32]
        self._taken = self._met = 0

    @cached_property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self._words)

    def begin(self, frame: Frame, views: Sequence[View], kind: Kind) -> None:
        """Draw the order of its labels, once; those that some profile has no place for are passed over, so that a
        question about two points does not lose the good one with the bad.

        Args:
            views: of the frame, in each profile.
        """
        if self._usable is not None:
            return
        known = len(frame.labels[1])
        order = self.rng.choice(known, min(known, MAX_LABELS), replace=False)
        xy, z = (values[order] for values in frame.labels)
        fits = (z >= MIN_Z_M) & (z <= MAX_Z_M)
        for view in views:
            fits &= view.camera.contains(view.to_canonical(xy))
        self._places = np.flatnonzero(fits).astype(np.int32)
        self._usable = order[fits].astype(np.int32)
        self.left = len(self._usable) >= kind.points

    def take(self, kind: Kind) -> tuple[list[int], int]:
        """The labels of the next question, and how many were passed over on the way to them. About a pair of images as
        such there is one question only.
        """
        assert self._usable is not None
        end = self._taken + kind.points
        labels = self._usable[self._taken : end].tolist()
        met = int(self._places[end - 1]) + 1 if labels else self._met
        skipped = met - self._met - len(labels)
        self._taken, self._met = end, met
        self.left = kind.points > 0 and end + kind.points <= len(self._usable)
        return labels, skipped


@dataclass(frozen=True, eq=False)
class _Question:
    """A question that can be asked: about ``labels`` of the first of the frames at ``keys``, whose ``camera`` it is."""

    kind: Kind
    keys: tuple[tuple[int, int], ...]
    labels: list[int]
    plan: Plan
    frame_ids: list[str]
    dataset: str
    camera: Camera

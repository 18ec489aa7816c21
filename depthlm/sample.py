"""Frames and question kinds -> one sample: marked canonical images, questions, exact answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthlm.canonical import View, plan_view, render_view
from depthlm.errors import DepthLMError
from depthlm.frame import Frame
from depthlm.markers import COLOURS, Placement, draw_markers, place_markers
from depthlm.profiles import Profile
from depthlm.prompt import (
    Intrinsics,
    Pointing,
    assistant_message,
    camera_words,
    point_names,
    question_text,
    system_message,
    user_message,
)
from depthlm.questions import Geometry, Kind, Wording

# Labels outside this range are not asked about: below, rounding to centimetres exceeds delta1's interest; above, LiDAR
# and stereo no longer measure.
MIN_Z_M, MAX_Z_M = 0.1, 200.0
PLACEMENT_TRIES = 30

# A canonical image (h, w, 3), unmarked, and the maps to it.
Rendered = tuple[View, NDArray[np.uint8]]


@dataclass(frozen=True)
class Turn:
    """One question with its answer.

    Args:
        kind, question, answer: the kind's name and the two texts.
        truth: exact answer, float64, in ``unit``.
        points: per marked point: colour, canonical ``xy``, ``source_xy`` in the original image, ``z`` and ``distance``
            in metres.
    """

    kind: str
    question: str
    answer: str
    truth: float
    unit: str
    points: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Sample:
    """Marked images with one or several questions about them.

    Args:
        images: (h, w, 3) uint8 RGB canonical images.
        turns: asked in this order, in one conversation.
        depths: per image the canonical z map (h, w) float32, 0 unknown, or None; only filled on request.
        marks: per image (colour, x, y) of each marker, canonical px.
        text_first: the question comes before the images.
    """

    images: list[NDArray[np.uint8]]
    turns: list[Turn]
    id: str
    dataset: str
    frame_ids: list[str]
    system: str = ""
    depths: list[NDArray[np.float32] | None] = field(default_factory=list)
    marks: list[list[tuple[str, float, float]]] = field(default_factory=list)
    text_first: bool = False

    def messages(self, upto: int | None = None) -> list[dict[str, Any]]:
        """Chat messages; with ``upto`` only the turns before it and question ``upto`` itself, unanswered."""
        out = [system_message(self.system)] if self.system else []
        for i, turn in enumerate(self.turns):
            out.append(user_message(turn.question, len(self.images) if i == 0 else 0, self.text_first))
            if i == upto:
                break
            out.append(assistant_message(turn.answer))
        return out


def render_frame(
    frame: Frame,
    profile: Profile,
    intrinsics: Intrinsics = "normalize",
    crop: tuple[float, float] = (0.5, 0.5),
    share: float = 1.0,
) -> Rendered:
    """A frame's canonical image (h, w, 3), unmarked, and the maps to it.

    Args:
        crop: where the canonical window lies in the slack, 0..1 in x and y.
        share: of each side that the window keeps, 0..1.

    Raises:
        DepthLMError: the image can't be decoded, or is too small for a canonical one.
    """
    view = plan_view(frame.camera, profile.canonical(intrinsics), crop, share)
    return view, render_view(frame.pixels(checked=True), view)


@dataclass(frozen=True, eq=False)
class Plan:
    """What is asked of frames and where markers go, before any pixel is looked at.

    Args:
        turns: the questions with their answers.
        wordings: of each turn, from which its question was made.
        picked: (n,) indices of the marked labels of the first frame, in the order of the turns' points.
        placements, names: of each of them, its marker and its colour.
    """

    turns: list[Turn]
    wordings: list[Wording]
    picked: NDArray[np.int64]
    placements: list[Placement]
    names: list[str]


def plan_sample(
    frames: Sequence[Frame],
    views: Sequence[View],
    kinds: Sequence[Kind],
    rng: np.random.Generator,
    profile: Profile,
    intrinsics: Intrinsics = "normalize",
    *,
    labels: Sequence[int] | None = None,
    wordings: Sequence[Wording] | None = None,
    shuffle_colours: bool = False,
    pointing: Pointing = "marker",
    reasoned: bool = True,
) -> Plan:
    """Decide what a sample asks; arguments and errors as in `make_sample`.

    Args:
        views: of each frame, see `depthlm.canonical.plan_view`.
    """
    needed = sum(kind.points for kind in kinds)
    picked, placements = (
        _choose_points(frames[0], views[0], needed, rng, profile, labels) if needed else (np.zeros(0, int), [])
    )
    names = list(COLOURS)[:needed]
    if shuffle_colours:
        names = [str(c) for c in rng.permutation(list(COLOURS)[: max(needed, 4)])[:needed]]
    points = _describe_points(frames[0], views[0], picked, names)
    called = point_names(pointing, profile.marker.kind, names, [p["xy"] for p in points])
    words = camera_words([view.camera for view in views]) if intrinsics in ("text", "both") else ""
    if wordings is None:
        wordings = [kind.draw(rng) for kind in kinds]
    turns = _make_turns(frames, kinds, wordings, points, called, words, profile, reasoned)
    return Plan(turns, list(wordings), picked, placements, names)


def make_sample(
    frames: Sequence[Frame],
    kinds: Sequence[Kind],
    rng: np.random.Generator,
    profile: Profile,
    intrinsics: Intrinsics = "normalize",
    *,
    crop: tuple[float, float] = (0.5, 0.5),
    labels: Sequence[int] | None = None,
    wordings: Sequence[Wording] | None = None,
    rendered: Sequence[Rendered] | None = None,
    shuffle_colours: bool = False,
    dense: bool = False,
    pointing: Pointing = "marker",
    reasoned: bool = True,
    sample_id: str = "",
) -> Sample:
    """Build one sample about ``frames`` with a turn for each of ``kinds``.

    Args:
        frames: as many as the kinds need (all kinds of one sample need the same number).
        rng: the only source of chance.
        crop: where the canonical window lies in the slack, 0..1 in x and y.
        labels: indices into the frame's labels to mark, in the order of the turns' points; drawn when None.
        wordings: of each turn; drawn when None.
        rendered: what `render_frame` gave for each frame, to decode and warp once for several samples; ``crop`` is not
            looked at then.
        shuffle_colours: random colours (training) instead of red, blue, green, … in order.
        dense: fill ``depths``.
        pointing: "coordinates" draws nothing and names the points' pixels; only points that a marker would fit are
            asked about all the same, so that both ways ask about the same ones.
        reasoned: False: answers are the number alone, of every kind.

    Raises:
        DepthLMError: kind "no usable point" when no marker placement fits, or any error of decoding and geometry.
    """
    if rendered is None:
        rendered = [render_frame(frame, profile, intrinsics, crop) for frame in frames]
    views, images = [view for view, _ in rendered], [image for _, image in rendered]
    plan = plan_sample(
        frames,
        views,
        kinds,
        rng,
        profile,
        intrinsics,
        labels=labels,
        wordings=wordings,
        shuffle_colours=shuffle_colours,
        pointing=pointing,
        reasoned=reasoned,
    )
    marks = []
    if plan.placements and pointing == "marker":
        images[0] = draw_markers(images[0], plan.placements, plan.names)
        marks = [(p["colour"], *p["xy"]) for turn in plan.turns for p in turn.points]
    return Sample(
        images=images,
        turns=plan.turns,
        id=sample_id,
        dataset=frames[0].dataset,
        frame_ids=[frame.id for frame in frames],
        system=profile.system,
        depths=[canonical_depth(frame, view) for frame, view in zip(frames, views, strict=True)] if dense else [],
        marks=[marks] + [[] for _ in frames[1:]],
        text_first=profile.text_first,
    )


def _choose_points(
    frame: Frame,
    view: View,
    needed: int,
    rng: np.random.Generator,
    profile: Profile,
    labels: Sequence[int] | None,
) -> tuple[NDArray[np.int64], list[Placement]]:
    """Indices of labels whose markers fit into the canonical image together, and the markers' places."""
    if needed > len(COLOURS):
        raise DepthLMError("points", f"{needed} points in one image, but only {len(COLOURS)} colours", "ask for fewer")
    xy, z = frame.labels
    size = view.camera.width, view.camera.height
    usable = np.arange(len(z)) if labels is None else np.asarray(labels, np.int64)
    canonical = view.to_canonical(xy[usable])
    fits = view.camera.contains(canonical) & (z[usable] >= MIN_Z_M) & (z[usable] <= MAX_Z_M)
    usable, canonical = usable[fits], canonical[fits]
    if labels is None:
        draws = (rng.permutation(len(usable))[:needed] for _ in range(PLACEMENT_TRIES))
    else:
        draws = iter([np.arange(len(usable))])
    for draw in draws:
        if len(draw) < needed:
            break
        placements = place_markers(profile.marker, canonical[draw], *size)
        if placements is not None:
            return usable[draw], placements
    raise DepthLMError(
        f"frame {frame.id}",
        f"no room for {needed} marker(s) among {len(usable)} labels inside the canonical {size[0]}x{size[1]} image",
        "use a wider image, fewer points or a smaller marker",
        "no usable point",
    )


def _describe_points(frame: Frame, view: View, picked: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
    xy, z = frame.labels[0][picked], frame.labels[1][picked].astype(np.float64)
    canonical = view.to_canonical(xy)
    distance = frame.camera.z_to_distance(xy, z)
    xyz = frame.camera.back_project(xy, z)
    return [
        {
            "colour": names[i],
            "xy": [float(v) for v in canonical[i]],
            "source_xy": [float(v) for v in xy[i]],
            "z": float(z[i]),
            "distance": float(distance[i]),
            "xyz": [float(v) for v in xyz[i]],
        }
        for i in range(len(picked))
    ]


def _make_turns(
    frames: Sequence[Frame],
    kinds: Sequence[Kind],
    wordings: Sequence[Wording],
    points: list[dict[str, Any]],
    called: list[str],
    words: str,
    profile: Profile,
    reasoned: bool,
) -> list[Turn]:
    poses = tuple(frame.camera.pose for frame in frames if frame.camera.pose is not None)
    turns, used = [], 0
    for i, (kind, wording) in enumerate(zip(kinds, wordings, strict=True)):
        if kind.images != len(frames):
            raise DepthLMError(kind.name, f"asks about {kind.images} images, got {len(frames)}", "pair the frames")
        own, names = points[used : used + kind.points], called[used : used + kind.points]
        used += kind.points
        geometry = Geometry(np.array([p["xyz"] for p in own], np.float64).reshape(-1, 3), poses)
        text = question_text(kind, wording, names, profile.instruction, words if i == 0 else "")
        answer = kind.answer(geometry, wording.given, reasoned)
        turns.append(Turn(kind.name, text, answer, kind.truth(geometry, wording.given), kind.unit, own))
    return turns


def canonical_depth(frame: Frame, view: View) -> NDArray[np.float32] | None:
    """The frame's dense z seen in the canonical image, (h, w) float32 metres, 0 unknown; nearest measured pixel, never
    interpolated. None when the frame has no dense map."""
    if frame.depth is None:
        return None
    w, h = view.camera.width, view.camera.height
    if frame.camera.distortion:
        xs, ys = np.meshgrid(np.arange(w), np.arange(h))
        source = view.to_source(np.stack([xs.ravel(), ys.ravel()], 1)).reshape(h, w, 2)
        x, y = source[..., 0], source[..., 1]
    else:  # separable: one row and one column say it all
        x = view.to_source(np.stack([np.arange(w), np.zeros(w)], 1))[None, :, 0]
        y = view.to_source(np.stack([np.zeros(h), np.arange(h)], 1))[:, None, 1]
    xi = np.clip(np.rint(x).astype(np.int64), 0, frame.camera.width - 1)
    yi = np.clip(np.rint(y).astype(np.int64), 0, frame.camera.height - 1)
    return frame.depth[yi, xi]

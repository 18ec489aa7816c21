"""Points of one photo -> questions about their distances, one or several of them marked on one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from numpy.typing import ArrayLike

from depthlm.asking import Canvas
from depthlm.prompt import camera_words, point_names, question_text
from depthlm.questions import KINDS, Wording
from depthlm.serving.chat_request import encode
from depthlm.shown import Shown

# Points that are marked on one image: each asked alone about it, or one after the other in one conversation.
Together = Literal["image", "conversation"]
T = TypeVar("T")


def dealt(points: Sequence[T], count: int) -> list[list[T]]:
    """Groups of at most ``count``, far apart within each when the points are in reading order: dealt like cards."""
    groups = -(-len(points) // count)
    return [list(points[i::groups]) for i in range(groups)]


def ask_distances(canvas: Canvas, points: ArrayLike, together: Together, encoding: str | None = None) -> list[Shown]:
    """Questions about the distance of each of the points (n, 2), px of the photo, all marked on one image.

    Args:
        together: "image": n questions of one conversation each; "conversation": one of n questions.
        encoding: encode the image now, once for all questions, for a server; see `depthlm.serving.chat_request`.

    Raises:
        DepthLMError: kind "bad point", see `Canvas.mark`.
    """
    marked = canvas.mark(points)
    profile, kind = canvas.profile, KINDS.get("distance")
    names = point_names(canvas.pointing, profile.marker.kind, marked.colours, marked.xy.tolist())
    words = camera_words([marked.view.camera]) if canvas.intrinsics in ("text", "both") else ""
    wording = Wording(kind.phrasings[0])
    texts = [
        question_text(kind, wording, [name], profile.instruction, words if i == 0 or together == "image" else "")
        for i, name in enumerate(names)
    ]
    all_of_them = Shown(
        [marked.pixels],
        texts,
        profile.system,
        profile.text_first,
        [[point] for point in marked.points],
        (encode(marked.pixels, encoding),) if encoding is not None else (),
        canonical=not profile.note,
    )
    if together == "conversation":
        return [all_of_them]
    return [
        replace(all_of_them, texts=[text], points=[[point]]) for text, point in zip(texts, marked.points, strict=True)
    ]

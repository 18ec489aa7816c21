"""A suite's questions in the form that a model wants: canonical images of its focal length, its markers, its prompt."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthlm.errors import DepthLMError
from depthlm.frame import Frame, decode_rgb
from depthlm.profiles import PROFILES, Profile
from depthlm.questions import KINDS, Wording
from depthlm.sample import Rendered, make_sample, render_frame
from depthlm.shown import Shown
from depthlm.store import FrameStore
from depthlm.suite import FRAMES, Item, Suite, frame_hash, image_name


class SuiteView:
    """Shows a suite's questions to models of one profile. May be handed to other processes.

    What is made of the last frames stays in memory: questions about the same ones in a row decode them once.

    Args:
        suite: where the questions come from.
        profile: how they are asked; by default as the suite was frozen.

    Raises:
        DepthLMError: no such profile, or damaged frames.
    """

    def __init__(self, suite: Suite, profile: str | None = None) -> None:
        settings = suite.settings
        self.path, self._settings = suite.path, settings
        self.profile: Profile = PROFILES.get(profile or settings.get("profile", "general"))
        self._rendered: tuple[tuple[str, ...], list[Frame], list[Rendered]] | None = None
        self._stored: tuple[list[str], list[NDArray[np.uint8]], list[bytes]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        kept = ("path", "profile", "_settings")  # another process opens the frames itself
        return {name: self.__dict__[name] for name in kept} | {"_rendered": None, "_stored": None}

    @cached_property
    def _store(self) -> FrameStore:
        return FrameStore(self.path / FRAMES)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {frame_id: row for row, frame_id in enumerate(self._store.ids)}

    def show(self, item: Item, *others: Item) -> Shown:
        """A question as this profile asks it; with ``others`` about the same frame, one after the other in one
        conversation, each with markers of its own colours.

        Raises:
            DepthLMError: a frame or image is missing or not the one that was frozen; questions about different frames,
                or several about stored images; the profile has no place for a marker there (kind "no usable point").
        """
        if others and (item.images or any(other.frame_ids != item.frame_ids for other in others)):
            reason = "is asked in one conversation with questions about something else"
            raise DepthLMError(f"question {item.id}", reason, "only questions about the same frames share one")
        if item.images:
            images, stored = self._images(item)
            return Shown(images, [item.question], item.system, stored=stored)
        items = [item, *others]
        frames, rendered = self._frames(item)
        for each in items:
            _check_labels(each, frames[0])
        sample = make_sample(
            frames,
            [KINDS.get(each.kind) for each in items],
            np.random.default_rng(0),  # nothing is left to chance
            self.profile,
            self._settings.get("intrinsics", "normalize"),
            labels=[label for each in items for label in each.labels],
            wordings=[Wording(each.phrasing, each.given) for each in items],
            rendered=rendered,
            pointing=self._settings.get("pointing", "marker"),
        )
        texts, points = [turn.question for turn in sample.turns], [turn.points for turn in sample.turns]
        canonical = not self.profile.note
        return Shown(sample.images, texts, sample.system, sample.text_first, points, canonical=canonical)

    def frames(self, item: Item) -> list[Frame]:
        """The frames that a question is about, as frozen: with the asked labels alone.

        Raises:
            DepthLMError: one is missing, or not the one that was frozen.
        """
        found = []
        for name, digest in zip(item.frame_ids, item.frame_hashes, strict=True):
            if name not in self._rows:
                raise DepthLMError(f"{self.path}/{FRAMES}", f"has no frame {name}", "freeze or fetch the suite again")
            frame = self._store[self._rows[name]]
            if frame_hash(frame) != digest:
                reason = f"frame {name} is not the one that was frozen"
                raise DepthLMError(f"{self.path}/{FRAMES}", reason, "freeze or fetch the suite again")
            found.append(frame)
        return found

    def _frames(self, item: Item) -> tuple[list[Frame], list[Rendered]]:
        key = tuple(item.frame_ids)
        if self._rendered is None or self._rendered[0] != key:
            frames = self.frames(item)
            mode = self._settings.get("intrinsics", "normalize")
            self._rendered = key, frames, [render_frame(frame, self.profile, mode) for frame in frames]
        return self._rendered[1], self._rendered[2]

    def _images(self, item: Item) -> tuple[list[NDArray[np.uint8]], list[bytes]]:
        if self._stored is None or self._stored[0] != item.images:
            try:
                files = [path.read_bytes() for path in item.image_paths]
            except OSError as error:
                raise DepthLMError(self.path, f"can't be read: {error}", "freeze or fetch the suite again") from error
            images = [decode_rgb(data, str(path)) for data, path in zip(files, item.image_paths, strict=True)]
            for name, pixels in zip(item.images, images, strict=True):
                if name != image_name(pixels):
                    raise DepthLMError(self.path, f"{name} is not the one that was frozen", "fetch the suite again")
            self._stored = item.images, images, files
        return self._stored[1], self._stored[2]


def _check_labels(item: Item, frame: Frame) -> None:
    """Refuse a row whose labels the frame does not have: numpy would count a negative one from the end."""
    needed, known = KINDS.get(item.kind).points, len(frame.labels[1])
    if len(item.labels) != needed or not all(0 <= label < known for label in item.labels):
        reason = f"asks about labels {item.labels}; {item.kind} needs {needed} of the frame's {known}"
        raise DepthLMError(f"question {item.id}", reason, "freeze or fetch the suite again")

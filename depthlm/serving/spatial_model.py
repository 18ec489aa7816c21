"""A model that measures: photos with points -> canonical, marked images -> its answer -> a number in SI units."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from depthlm.asking import Canvas, ask_about, checked_question
from depthlm.errors import DepthLMError
from depthlm.measuring import Measurement, read_measurement
from depthlm.models.asked_as import GENERAL, AskedAs, profile_of, read_asked_as
from depthlm.photo import Lens, Photo, read_photo
from depthlm.profiles import PROFILES, Profile
from depthlm.questions import KINDS
from depthlm.serving.answerers import Answerer
from depthlm.shown import Shown

MAX_SAMPLES = 64


@dataclass(frozen=True)
class Question:
    """What is to be measured.

    Args:
        kind: see `depthlm.questions.KINDS`.
        images: files' bytes, one or (camera_motion) two, in order.
        lenses: what is known of each image's camera.
        points: (x, y) px of the first image, upright; integer coordinates are pixel centres.
        names: of the points, for whom reads the answer.
        given: seconds (speed) or m/s (travel_time).
        samples: draw so many answers instead of the likeliest one: the value is their median.
    """

    kind: str
    images: Sequence[bytes]
    lenses: Sequence[Lens] = ()
    points: Sequence[tuple[float, float]] = ()
    names: Sequence[str] = ()
    given: float | None = None
    samples: int = 1


@dataclass(frozen=True, eq=False)
class SpatialModel:
    """Whom to ask, and how.

    Args:
        answerer: who answers; started and closed by whoever made it.
        asked_as: profile, camera words and pointing, as the model was trained.
        encoder: folder of a spatial encoder that tells unknown cameras.
        max_pixels: larger images are refused.
        notes: what a reader of its answers has to know of how it is asked.
    """

    answerer: Answerer
    asked_as: AskedAs
    encoder: str | None = None
    max_pixels: int | None = None
    notes: Sequence[str] = field(default=())

    @property
    def profile(self) -> Profile:
        """How the model wants to be asked."""
        return PROFILES.get(self.asked_as.profile)

    def photo(self, data: bytes, lens: Lens | None = None, where: str = "image") -> Photo:
        """See `depthlm.photo.read_photo`."""
        return read_photo(data, lens, encoder=self.encoder, max_pixels=self.max_pixels, where=where)

    def canvas(self, photo: Photo) -> Canvas:
        """The photo in this model's form."""
        how = self.asked_as
        return Canvas(photo, self.profile, how.intrinsics, how.pointing)  # type: ignore[arg-type]

    def open(self, data: bytes, lens: Lens | None = None, where: str = "image") -> Canvas:
        """An image file as photo in this model's form; see `depthlm.photo.read_photo`."""
        return self.canvas(self.photo(data, lens, where))

    def show(self, question: Question) -> tuple[Shown, list[Photo]]:
        """The question as the model is asked it.

        Raises:
            DepthLMError: see `depthlm.photo.read_photo` and `depthlm.asking.ask_about`.
        """
        kind = KINDS.get(question.kind)
        checked_question(kind, len(question.images), len(question.points), question.given)  # before any image is read
        if not 1 <= question.samples <= MAX_SAMPLES:
            raise DepthLMError("samples", f"is {question.samples}", f"give 1 to {MAX_SAMPLES}", "bad question")
        lenses = list(question.lenses) or [Lens()] * len(question.images)
        if len(lenses) != len(question.images):
            raise DepthLMError("camera", f"{len(lenses)} for {len(question.images)} images", "give one for each")
        canvases = [
            self.open(data, lens, f"image {i + 1}")
            for i, (data, lens) in enumerate(zip(question.images, lenses, strict=True))
        ]
        return ask_about(canvases, kind, question.points, question.given), [canvas.photo for canvas in canvases]

    async def measure(self, question: Question) -> Measurement:
        """Ask, and read the answer.

        Raises:
            DepthLMError: the question can't be asked, or has no answer.
        """
        return (await self.measure_shown(question))[0]

    async def measure_shown(self, question: Question) -> tuple[Measurement, Shown]:
        """`measure`, and what the model was shown."""
        shown, photos = await asyncio.to_thread(self.show, question)
        return await self.read(question, shown, photos), shown

    async def read(self, question: Question, shown: Shown, photos: Sequence[Photo]) -> Measurement:
        """Ask what `show` gave, and read the answer."""
        longest = self.profile.max_tokens
        found = await self.answerer.answer(shown, longest, question.samples)
        return read_measurement(
            KINDS.get(question.kind),
            question.given,
            shown,
            photos,
            found.texts,
            found.tokens,
            model=self.answerer.model,
            names=question.names,
            cut=found.cut,
            notes=self.notes,
        )


def how_to_ask(models: Sequence[str], profile: str | None = None) -> tuple[AskedAs, list[str]]:
    """How a model wants to be asked, and what a reader of its answers has to know of that.

    Args:
        models: folders or names, the adapter's before its base's.
        profile: chosen by the user.

    Raises:
        DepthLMError: no such profile.
    """
    trained = next((found for model in models if (found := read_asked_as(model)) is not None), None)
    if profile is None and trained is not None:
        name, notes = trained.profile, []
    elif profile is None:
        name, why = profile_of(*models)
        notes = [f"{why}: it is asked by the general profile; choose another if one fits"] if name == GENERAL else []
    else:
        name, notes = profile, []
    note = PROFILES.get(name).note
    notes += [note] if note else []
    return AskedAs(name, trained.intrinsics, trained.pointing) if trained else AskedAs(name), notes

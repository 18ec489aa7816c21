"""Samples rendered on demand: sample i of epoch e is a function of (seed, e, i) and of nothing else."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from depthlm.augment import Augmentation, mirrored
from depthlm.errors import DepthLMError, SkipReport
from depthlm.frame import Frame
from depthlm.pairs import PairRule, find_partner
from depthlm.profiles import PROFILES, Profile
from depthlm.prompt import INTRINSICS_MODES, POINTINGS, Intrinsics
from depthlm.questions import KINDS, Kind
from depthlm.sample import Rendered, Sample, make_sample, render_frame
from depthlm.store import FrameStore

logger = logging.getLogger(__name__)

# A frame that can't be used is replaced by another draw, counted; so many bad ones in a row mean a bad store.
FRAME_TRIES = 20
# So many frames in a row without a second view mean that the store has none.
PAIR_TRIES = 20
ROUTINE = ("no usable point", "no pair")
BLOCK_FRAMES = 64
EQUAL_MIX: dict[str, float] = {
    "distance": 1.0,
    "axis_distance": 1.0,
    "speed": 1.0,
    "travel_time": 1.0,
    "two_point": 1.0,
    "camera_motion": 1.0,
}


SAMPLINGS = ("image", "pixel")

# Further words of the seeds, so that crops and block orders are independent of the samples.
CROP, BLOCK = 1, 2


@dataclass(frozen=True, eq=False)
class Shown:
    """A frame of a store, and what a sample shows of it.

    Args:
        stored: as it is in the store.
        frame: the same, or in a mirror.
        rendered: its canonical image, unmarked, and the maps to it.
        flip: whether it is in a mirror; a partner has to be too.
    """

    stored: Frame
    frame: Frame
    rendered: Rendered
    flip: bool


@dataclass
class DataConfig:
    """What a training run draws its samples from."""

    stores: list[str] = field(default_factory=list)
    """Frame store folders."""
    weights: list[float] | None = None
    """Share of samples from each store; by default in proportion to its frames."""
    mix: dict[str, float] | None = None
    """Question kind -> weight; by default all six kinds equally."""
    points_per_image: int = 1
    """Marked points of one image, asked one after the other as turns of one conversation."""
    profile: str = "qwen2.5-vl"
    """How the model wants to be asked: focal length, marker, image budget."""
    intrinsics: str = "normalize"
    """How the camera ambiguity is removed: normalize, text, both or none."""
    pointing: str = "marker"
    """How a question points at a pixel: marker or coordinates."""
    reasoned: bool = True
    """Whether answers about speed and time first state the distance; False: the number alone."""
    sampling: str = "image"
    """image: all frames equally often; pixel: all labelled pixels, so a frame as often as it has labels."""
    seed: int = 0
    """Seed of the samples."""
    dense: bool = False
    """Also give per-pixel depth, for the dense targets of pretraining."""
    samples_per_image: int = 1
    """Samples made from one decoded image, each with points and a question of its own. They are spread over blocks of
    ``BLOCK_FRAMES`` frames, so that a batch holds different images; a worker keeps a block's images in memory."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How images are varied; answers stay exact."""
    pairs: PairRule = field(default_factory=PairRule)
    """Which two frames of a scene may be asked about together."""


class SampleDataset(Dataset[Sample]):
    """``count`` samples drawn from frame stores; map-style, so that a resumed run skips by index alone.

    Raises:
        DepthLMError: no store, weights of another length, an unknown kind, profile or mode.
    """

    def __init__(self, config: DataConfig, count: int, epoch_length: int | None = None) -> None:
        if not config.stores:
            raise DepthLMError("stores", "no frame store given", "name at least one folder made by `depthlm data`")
        for name in ("points_per_image", "samples_per_image"):
            if getattr(config, name) < 1:
                raise DepthLMError(name, f"{getattr(config, name)} is less than 1", "ask for 1 or more")
        for name, known in (("intrinsics", INTRINSICS_MODES), ("pointing", POINTINGS), ("sampling", SAMPLINGS)):
            if getattr(config, name) not in known:
                raise DepthLMError(name, f"unknown mode {getattr(config, name)!r}", f"one of {known}")
        self.config = config
        self.stores = [FrameStore(path) for path in config.stores]
        self.profile: Profile = PROFILES.get(config.profile)
        self.intrinsics: Intrinsics = config.intrinsics  # type: ignore[assignment]  # checked above
        mix = config.mix or EQUAL_MIX
        self.kinds: list[Kind] = [KINDS.get(name) for name in mix]
        self.kind_weights = normalized("mix", list(mix.values()))
        sizes = [len(store) for store in self.stores]
        self.store_weights = normalized("weights", config.weights or sizes)
        if len(self.store_weights) != len(self.stores):
            reason = f"{len(self.store_weights)} weights for {len(self.stores)} stores"
            raise DepthLMError("weights", reason, "give one for each store, in the same order")
        self.count, self.epoch_length = count, epoch_length or sum(sizes) * config.samples_per_image
        self.skipped = SkipReport()
        self._pairs = 0
        self._plan: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._block: tuple[tuple[int, int], NDArray[np.int64]] | None = None
        self._shown: OrderedDict[tuple[int, int], Shown] = OrderedDict()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        epoch, i = divmod(index, self.epoch_length)
        rng = np.random.default_rng([self.config.seed, epoch, i])
        slot = self._slot(epoch, i)
        store, frame_index = self._planned(epoch, slot)
        error: DepthLMError | None = None
        for attempt in range(FRAME_TRIES):
            try:
                shown = self._show(store, frame_index, rng, (epoch, slot) if attempt == 0 else None)
                return self._sample(store, frame_index, shown, rng, f"{epoch}-{i}")
            except DepthLMError as bad:
                error = bad
                self.skipped.add(bad)
                self._tell(bad)
                frame_index = int(rng.integers(len(store)))
        raise DepthLMError(
            store.path, f"{FRAME_TRIES} unusable frames in a row, the last: {error}", "inspect the store"
        )

    def _tell(self, bad: DepthLMError) -> None:
        """Warn of a frame that can't be used, ever more rarely; one without room for a marker is nothing unusual."""
        if bad.kind not in ROUTINE:
            count = sum(n for kind, n in self.skipped.counts.items() if kind not in ROUTINE)
            if count in (1, 2, 3) or (count >= 10 and str(count).strip("0") == "1"):
                logger.warning("%s: another frame is drawn instead; so far %d in this process", bad, count)

    def _tell_alone(self, frame: Frame) -> None:
        """Count a frame without a second view; warn once where none has one."""
        self.skipped.count("no pair", frame.id)
        if self._pairs == 0 and self.skipped.counts["no pair"] == PAIR_TRIES:
            logger.warning(
                "%d frames drawn for a question about two images, and none has a second view (another frame of its "
                "scene with a pose, pair_overlap and pair_motion_m): other kinds are asked instead",
                PAIR_TRIES,
            )

    def _show(self, store: FrameStore, index: int, rng: np.random.Generator, slot: tuple[int, int] | None) -> Shown:
        """A frame with its canonical image: that of its slot for all samples of the slot, else one of its own."""
        shared = slot is not None and self.config.samples_per_image > 1
        if shared and slot in self._shown:
            self._shown.move_to_end(slot)
            return self._shown[slot]
        crops = np.random.default_rng([self.config.seed, *slot, CROP]) if shared and slot else rng
        crop = float(crops.random()), float(crops.random())
        shown = self._render(store[index], crop, self.config.augmentation.draw_flip(crops), crops)
        if shared and slot:
            self._shown[slot] = shown
            if len(self._shown) > BLOCK_FRAMES:
                self._shown.popitem(last=False)
        return shown

    def _render(self, stored: Frame, crop: tuple[float, float], flip: bool, rng: np.random.Generator) -> Shown:
        augmentation = self.config.augmentation
        frame = mirrored(stored) if flip else stored
        share = augmentation.draw_share(rng)
        view, pixels = render_frame(frame, self.profile, self.intrinsics, crop, share)
        return Shown(stored, frame, (view, augmentation.recolour(pixels, rng)), flip)

    def _sample(self, store: FrameStore, index: int, shown: Shown, rng: np.random.Generator, sample_id: str) -> Sample:
        frames, rendered = [shown.frame], [shown.rendered]
        kinds = self._draw_kinds(rng)
        if kinds[0].images == 2:
            partner = find_partner(store, index, shown.stored, rng, self.config.pairs)
            if partner is None:  # a scene seen once has no second view: ask something else of it
                self._tell_alone(shown.stored)
                kinds = self._draw_kinds(rng, images=1)
            else:
                self._pairs += 1
                crop = float(rng.random()), float(rng.random())
                other = self._render(partner, crop, shown.flip, rng)
                frames.append(other.frame)
                rendered.append(other.rendered)
        return make_sample(
            frames,
            kinds,
            rng,
            self.profile,
            self.intrinsics,
            rendered=rendered,
            shuffle_colours=True,
            dense=self.config.dense,
            pointing=self.config.pointing,  # type: ignore[arg-type]  # checked above
            reasoned=self.config.reasoned,
            sample_id=sample_id,
        )

    def _draw_kinds(self, rng: np.random.Generator, images: int | None = None) -> list[Kind]:
        """Kinds of one conversation: as many as ``points_per_image`` points allow; a two-image kind stands alone."""
        first = self._draw_kind(rng, images)
        if first.images == 2:
            return [first]
        kinds, left = [first], self.config.points_per_image - first.points
        while left > 0:
            kind = self._draw_kind(rng, images=1)
            kinds.append(kind)
            left -= kind.points
        return kinds

    def _draw_kind(self, rng: np.random.Generator, images: int | None) -> Kind:
        weights = self.kind_weights
        if images is not None:
            weights = weights * [kind.images == images for kind in self.kinds]
            if not weights.any():
                raise DepthLMError("mix", f"no kind that asks about {images} image(s)", "add one", "no pair")
            weights = weights / weights.sum()
        return self.kinds[int(rng.choice(len(self.kinds), p=weights))]

    def _slot(self, epoch: int, i: int) -> int:
        """Which decoded image of an epoch sample i is about: shuffled within blocks of ``BLOCK_FRAMES`` images."""
        share = self.config.samples_per_image
        if share == 1:
            return i
        block, offset = divmod(i, BLOCK_FRAMES * share)
        size = min(BLOCK_FRAMES * share, self.epoch_length - block * BLOCK_FRAMES * share)
        if self._block is None or self._block[0] != (epoch, block):
            order = np.random.default_rng([self.config.seed, epoch, block, BLOCK]).permutation(size)
            self._block = (epoch, block), order
        return block * BLOCK_FRAMES + int(self._block[1][offset]) // share

    def _planned(self, epoch: int, slot: int) -> tuple[FrameStore, int]:
        """Store and frame of a slot: stores by weight, each store's frames in whole shuffled passes or by labels."""
        if self._plan is None or self._plan[0] != epoch:
            rng = np.random.default_rng([self.config.seed, epoch])
            slots = -(-self.epoch_length // self.config.samples_per_image)
            stores = rng.choice(len(self.stores), size=slots, p=self.store_weights)
            frames = np.empty(slots, np.int64)
            for s, store in enumerate(self.stores):
                where = np.flatnonzero(stores == s)
                if self.config.sampling == "pixel":
                    labels = store.label_counts
                    frames[where] = rng.choice(len(store), size=len(where), p=labels / labels.sum())
                    continue
                passes = -(-len(where) // len(store))
                order = [rng.permutation(len(store)) for _ in range(passes)]
                if order:
                    frames[where] = np.concatenate(order)[: len(where)]
            self._plan = epoch, stores, frames
        return self.stores[int(self._plan[1][slot])], int(self._plan[2][slot])


def normalized(name: str, weights: Sequence[float]) -> NDArray[np.float64]:
    """Weights as shares of 1, (n,) float64.

    Raises:
        DepthLMError: none, one that is negative or not finite, or all zero.
    """
    out = np.asarray(weights, np.float64)
    if len(out) == 0 or not np.isfinite(out).all() or (out < 0).any() or out.sum() <= 0:
        raise DepthLMError(name, f"weights {list(weights)} are not non-negative with a positive sum", "e.g. 0.7 0.3")
    return out / out.sum()

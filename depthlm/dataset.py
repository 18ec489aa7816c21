"""Samples rendered on demand: sample i of epoch e is a function of (seed, e, i) and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from depthlm.errors import DepthLMError, SkipReport
from depthlm.frame import Frame
from depthlm.pairs import is_pair
from depthlm.profiles import PROFILES, Profile
from depthlm.prompt import INTRINSICS_MODES, Intrinsics
from depthlm.questions import KINDS, Kind
from depthlm.sample import Sample, make_sample
from depthlm.store import FrameStore

# A frame that can't be used is replaced by another draw, counted; so many bad ones in a row mean a bad store.
FRAME_TRIES = 20
PAIR_TRIES = 6
EQUAL_MIX: dict[str, float] = {
    "distance": 1.0,
    "axis_distance": 1.0,
    "speed": 1.0,
    "travel_time": 1.0,
    "two_point": 1.0,
    "camera_motion": 1.0,
}


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
    seed: int = 0
    """Seed of the samples."""
    dense: bool = False
    """Also give per-pixel depth, for the dense targets of pretraining."""


class SampleDataset(Dataset[Sample]):
    """``count`` samples drawn from frame stores; map-style, so that a resumed run skips by index alone.

    Raises:
        DepthLMError: no store, weights of another length, an unknown kind, profile or mode.
    """

    def __init__(self, config: DataConfig, count: int, epoch_length: int | None = None) -> None:
        if not config.stores:
            raise DepthLMError("stores", "no frame store given", "name at least one folder made by `depthlm data`")
        if config.points_per_image < 1:
            raise DepthLMError("points_per_image", f"{config.points_per_image} is less than 1", "ask for 1 or more")
        if config.intrinsics not in INTRINSICS_MODES:
            raise DepthLMError("intrinsics", f"unknown mode {config.intrinsics!r}", f"one of {INTRINSICS_MODES}")
        self.config = config
        self.stores = [FrameStore(path) for path in config.stores]
        self.profile: Profile = PROFILES.get(config.profile)
        self.intrinsics: Intrinsics = config.intrinsics  # type: ignore[assignment]  # checked above
        mix = config.mix or EQUAL_MIX
        self.kinds: list[Kind] = [KINDS.get(name) for name in mix]
        self.kind_weights = _normalized("mix", list(mix.values()))
        sizes = [len(store) for store in self.stores]
        self.store_weights = _normalized("weights", config.weights or sizes)
        if len(self.store_weights) != len(self.stores):
            raise DepthLMError("weights", f"{len(self.store_weights)} weights for {len(self.stores)} stores", "")
        self.count, self.epoch_length = count, epoch_length or sum(sizes)
        self.skipped = SkipReport()
        self._plan: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        epoch, i = divmod(index, self.epoch_length)
        rng = np.random.default_rng([self.config.seed, epoch, i])
        store_index, frame_index = self._planned(epoch, i)
        store = self.stores[store_index]
        error: DepthLMError | None = None
        for _ in range(FRAME_TRIES):
            try:
                return self._sample(store, frame_index, rng, f"{epoch}-{i}")
            except DepthLMError as bad:
                error = bad
                self.skipped.add(bad)
                frame_index = int(rng.integers(len(store)))
        raise DepthLMError(
            store.path, f"{FRAME_TRIES} unusable frames in a row, the last: {error}", "inspect the store"
        )

    def _sample(self, store: FrameStore, index: int, rng: np.random.Generator, sample_id: str) -> Sample:
        frame = store[index]
        kinds = self._draw_kinds(rng)
        frames = [frame]
        if kinds[0].images == 2:
            partner = find_partner(store, index, frame, rng)
            if partner is None:  # a scene seen once has no second view: ask something else of it
                kinds = self._draw_kinds(rng, images=1)
            else:
                frames.append(partner)
        return make_sample(
            frames,
            kinds,
            rng,
            self.profile,
            self.intrinsics,
            crop=(float(rng.random()), float(rng.random())),
            shuffle_colours=True,
            dense=self.config.dense,
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

    def _planned(self, epoch: int, i: int) -> tuple[int, int]:
        """Store and frame of sample i: stores by weight, each store's frames in whole shuffled passes."""
        if self._plan is None or self._plan[0] != epoch:
            rng = np.random.default_rng([self.config.seed, epoch])
            stores = rng.choice(len(self.stores), size=self.epoch_length, p=self.store_weights)
            frames = np.empty(self.epoch_length, np.int64)
            for s, store in enumerate(self.stores):
                where = np.flatnonzero(stores == s)
                passes = -(-len(where) // len(store))
                order = [rng.permutation(len(store)) for _ in range(passes)]
                if order:
                    frames[where] = np.concatenate(order)[: len(where)]
            self._plan = epoch, stores, frames
        return int(self._plan[1][i]), int(self._plan[2][i])


def find_partner(store: FrameStore, index: int, frame: Frame, rng: np.random.Generator) -> Frame | None:
    """Another frame of the same scene that overlaps and moved (see `depthlm.pairs`), or None."""
    if frame.camera.pose is None:
        return None
    views = store.scenes[frame.scene]
    for i in rng.permutation(views[views != index])[:PAIR_TRIES]:
        other = store[int(i)]
        if is_pair(frame, other):
            return other
    return None


def build_dataset(config: DataConfig, count: int) -> SampleDataset:
    """The samples of a whole run, ``count`` of them."""
    return SampleDataset(config, count)


def _normalized(name: str, weights: Sequence[float]) -> NDArray[np.float64]:
    out = np.asarray(weights, np.float64)
    if len(out) == 0 or not np.isfinite(out).all() or (out < 0).any() or out.sum() <= 0:
        raise DepthLMError(name, f"weights {list(weights)} are not non-negative with a positive sum", "correct them")
    return out / out.sum()

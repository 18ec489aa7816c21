"""A photo's depth from a model that answers one point at a time: a grid of questions, asked many at once.

model = SpatialModel(answerer, asked_as)            # the answerer is started
cloud = await ask_cloud(model, model.photo(data))
points, colours = cloud.points()
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from depthlm.depth_grid import unsettled
from depthlm.photo import Photo
from depthlm.profiles import PROFILES
from depthlm.serving.cloud.log import PointLog
from depthlm.serving.cloud.result import Cloud, CloudSettings
from depthlm.serving.cloud.run import CloudRun, Progress
from depthlm.serving.spatial_model import SpatialModel

__all__ = ["Cloud", "CloudSettings", "Progress", "ask_cloud", "log_header"]


async def ask_cloud(
    model: SpatialModel,
    photo: Photo,
    settings: CloudSettings | None = None,
    log: Path | None = None,
    on_progress: Progress | None = None,
    *,
    fresh: bool = False,
) -> Cloud:
    """Ask for the distances of a grid of points.

    Points without room for a marker, and answers without a distance, are unknown: `Cloud.skipped` counts them.

    Args:
        model: its answerer is started.
        log: points.jsonl, from which an interrupted run goes on; None: nothing is written.
        fresh: throw away what the log holds.

    Raises:
        DepthLMError: the photo is too small, the log is of another run or can't be written, or nothing answers; what
            was answered is in the log.
    """
    settings = settings or CloudSettings()
    grid, canvas = settings.grid_of(photo), model.canvas(photo)
    with PointLog(log, log_header(model, photo, settings), fresh) as kept:
        run = CloudRun(model, canvas, settings, grid, kept, on_progress or (lambda done, total: None))
        began = time.monotonic()
        await run.all()
        return Cloud(
            photo,
            settings,
            grid,
            run.answers,
            unsettled(*run.found(), settings.first_step, settings.threshold)[1],
            run.failed,
            model.answerer.model,
            run.asked,
            time.monotonic() - began,
            [*filter(None, [photo.warning]), *model.notes],
        )


def log_header(model: SpatialModel, photo: Photo, settings: CloudSettings) -> dict[str, Any]:
    """What answers have to have in common to belong to one cloud: the log's first line."""
    grid, camera = settings.grid_of(photo), asdict(photo.camera)
    camera.pop("pose")
    how = asdict(settings) | {"grid": [grid.columns, grid.rows]}
    for name in ("concurrency", "edge") if settings.adaptive else ("concurrency", "edge", "step", "threshold"):
        how.pop(name)  # answers do not depend on it
    profile = repr(PROFILES.get(model.asked_as.profile))
    return {
        "cloud": 1,
        "image": hashlib.sha256(repr(photo.pixels.shape).encode() + photo.pixels.tobytes()).hexdigest(),
        "camera": camera,
        "model": model.answerer.model,
        "asked_as": asdict(model.asked_as),
        "profile_digest": hashlib.sha256(profile.encode()).hexdigest()[:8],
        "settings": how,
    }

"""How far a marked point is from the camera centre: Euclidean, metres."""

import numpy as np

from depthlm.questions import Geometry, Kind


def truth(geometry: Geometry, given: float) -> float:
    """|P|, metres."""
    return float(np.linalg.norm(geometry.points[0]))


KIND = Kind(
    name="distance",
    unit="m",
    points=1,
    images=1,
    phrasings=(
        "How many metres is {a} from the camera?",
        "What is the distance in metres between the camera and {a}?",
        "How far away from the camera is {a}, in metres?",
    ),
    truth=truth,
)

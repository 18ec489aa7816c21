"""How far the camera moved between two images of one scene, metres."""

import numpy as np

from depthlm.questions import Geometry, Kind


def truth(geometry: Geometry, given: float) -> float:
    """|c_2 - c_1| of the two camera centres, metres."""
    first, second = geometry.poses
    return float(np.linalg.norm(second[:3, 3] - first[:3, 3]))


KIND = Kind(
    name="camera_motion",
    unit="m",
    points=0,
    images=2,
    phrasings=(
        "How many metres has the camera moved between these two images?",
        "What is the distance in metres between the two camera positions?",
        "By how many metres did the camera change its place from the first image to the second?",
    ),
    truth=truth,
)

"""At what constant speed a marked point is reached in a given time: distance / time, m/s."""

import numpy as np

from depthlm.questions import Geometry, Kind


def truth(geometry: Geometry, given: float) -> float:
    """|P| / t, metres per second; ``given`` is t in seconds."""
    return float(np.linalg.norm(geometry.points[0])) / given


KIND = Kind(
    name="speed",
    unit="m/s",
    points=1,
    images=1,
    phrasings=(
        "At what speed in metres per second must the camera move to reach {a} in {given} seconds?",
        "We want to arrive at {a} after {given} seconds. How many metres per second is that?",
        "Which constant speed in m/s takes the camera to {a} in {given} seconds?",
    ),
    truth=truth,
    given=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0),
    reasoned=True,
)

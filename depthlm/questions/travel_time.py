"""How long it takes to reach a marked point at a given speed: distance / speed, seconds."""

import numpy as np

from depthlm.questions import Geometry, Kind


def truth(geometry: Geometry, given: float) -> float:
    """|P| / v, seconds; ``given`` is v in metres per second."""
    return float(np.linalg.norm(geometry.points[0])) / given


KIND = Kind(
    name="travel_time",
    unit="s",
    points=1,
    images=1,
    phrasings=(
        "How many seconds does it take to reach {a} at a speed of {given} metres per second?",
        "Moving towards {a} at {given} m/s, after how many seconds do we arrive?",
        "If the camera moves at {given} metres per second, how many seconds is it from {a}?",
    ),
    truth=truth,
    given=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0),
    reasoned=True,
)

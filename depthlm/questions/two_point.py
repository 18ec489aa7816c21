"""How far two marked points of one image are from each other, metres."""

import numpy as np

from depthlm.questions import Geometry, Kind


def truth(geometry: Geometry, given: float) -> float:
    """|P_a - P_b|, metres."""
    return float(np.linalg.norm(geometry.points[0] - geometry.points[1]))


KIND = Kind(
    name="two_point",
    unit="m",
    points=2,
    images=1,
    phrasings=(
        "How many metres are {a} and {b} apart?",
        "What is the distance in metres between {a} and {b}?",
        "How far from {a} is {b}, in metres?",
    ),
    truth=truth,
)

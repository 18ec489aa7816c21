"""How far a marked point is along the principal axis: its z, metres."""

from depthlm.questions import Geometry, Kind


def truth(geometry: Geometry, given: float) -> float:
    """P_z, metres."""
    return float(geometry.points[0, 2])


KIND = Kind(
    name="axis_distance",
    unit="m",
    points=1,
    images=1,
    phrasings=(
        "How many metres is {a} in front of the camera, measured along its viewing direction only?",
        "Along the principal axis of the camera, what is the depth of {a} in metres?",
        "Measured straight ahead along the viewing direction, how many metres away is {a}?",
    ),
    truth=truth,
)

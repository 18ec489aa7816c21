"""Where a question belongs: how far its point is, where in the image, and how wide the camera sees."""

from __future__ import annotations

from bisect import bisect_right

from depthlm.suite import Item

DEPTHS_M = (1.0, 3.0, 10.0, 30.0)
FOVS_DEG = (45.0, 60.0, 75.0, 90.0)
DEPTH_RANGES = ("0–1 m", "1–3 m", "3–10 m", "10–30 m", "30+ m")
# Thirds of the way from the centre to the border of the original image.
REGIONS = ("centre", "between", "border")
FOV_RANGES = ("under 45°", "45–60°", "60–75°", "75–90°", "over 90°")
BREAKDOWNS = {"depth_range": DEPTH_RANGES, "region": REGIONS, "fov": FOV_RANGES}


def places(item: Item) -> tuple[str | None, str | None, str | None]:
    """Range of the farthest marked point's depth z, region of the outermost one, range of the horizontal field of view;
    None each where the question has none."""
    width, height = item.camera.get("width"), item.camera.get("height")
    fov = item.camera.get("fov_deg")
    depth = DEPTH_RANGES[bisect_right(DEPTHS_M, max(p["z"] for p in item.points))] if item.points else None
    region = None
    if item.points and width and height:
        # 0 in the centre, 1 at the border: the farther of the two directions counts
        out = max(
            max(abs((2 * x + 1) / width - 1), abs((2 * y + 1) / height - 1))
            for x, y in (point["source_xy"] for point in item.points)
        )
        region = REGIONS[min(int(out * 3), 2)]
    return depth, region, FOV_RANGES[bisect_right(FOVS_DEG, fov[0])] if fov else None

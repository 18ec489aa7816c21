"""Checks shared by the readers' tests: one view's labels in another view, and depth edges against image edges."""

from __future__ import annotations

import cv2
import numpy as np

from depthlm.frame import Frame


def reprojected_z_error(first: Frame, second: Frame) -> tuple[float, int]:
    """Labels of ``first`` seen by ``second``: median relative difference of z at the nearest labelled pixel, and count.

    Points that ``second`` sees something more than 10 % nearer than are hidden there and left out.
    """
    points = second.camera.from_world(first.camera.to_world(first.camera.back_project(*first.labels)))
    points = points[points[:, 2] > 0.1]
    xy, z = second.camera.project(points), points[:, 2]
    keep = second.camera.contains(xy)
    xy, z = np.round(xy[keep]).astype(int), z[keep]
    seen = np.zeros((second.camera.height, second.camera.width))
    columns, rows = np.clip(np.round(second.labels[0]).astype(int), 0, np.array(seen.shape[::-1]) - 1).T
    seen[rows, columns] = second.labels[1]
    xy = np.clip(xy, 0, np.array(seen.shape[::-1]) - 1)
    there = seen[xy[:, 1], xy[:, 0]]
    both = (there > 0) & (there > 0.9 * z)
    return float(np.median(np.abs(there[both] / z[both] - 1))), int(both.sum())


def edge_agreement(frame: Frame, dx: int = 0, dy: int = 0) -> float:
    """Image gradient at the near side of jumps of depth, in multiples of its mean; depth moved by (dx, dy) px.

    Only the true place and size of the depth brings it far above 1; the view needs many jumps for that.
    """
    grey = cv2.GaussianBlur(cv2.cvtColor(frame.pixels(), cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.5)
    gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    gradient = np.minimum(gradient, np.percentile(gradient, 97))
    depth = np.zeros_like(grey)
    columns, rows = np.clip(np.round(frame.labels[0]).astype(int), 0, np.array(depth.shape[::-1]) - 1).T
    depth[rows, columns] = frame.labels[1]
    jump = (depth > 0) & (cv2.dilate(depth, np.ones((5, 5))) > 1.12 * depth)
    moved = np.roll(jump, (dy, dx), (0, 1))[20:-20, 20:-20]
    return float(gradient[20:-20, 20:-20][moved].mean() / gradient.mean())


def nearest_z_error(first: Frame, second: Frame, within_px: float = 6.0) -> tuple[float, int]:
    """As `reprojected_z_error`, for sparse labels: a point against the nearest label within ``within_px``."""
    points = second.camera.from_world(first.camera.to_world(first.camera.back_project(*first.labels)))
    points = points[second.camera.sees(points)]
    xy, z = second.camera.project(points), points[:, 2]
    labels, depths = second.labels
    errors = []
    for start in range(0, len(xy), 500):
        away = np.linalg.norm(xy[start : start + 500, None] - labels[None], axis=2)
        nearest = away.argmin(axis=1)
        ratio = depths[nearest] / z[start : start + 500]
        errors.append(np.abs(ratio - 1)[(away.min(axis=1) < within_px) & (ratio > 0.9)])
    found = np.concatenate(errors)
    return float(np.median(found)), len(found)

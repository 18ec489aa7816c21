"""Depth maps and point clouds from a model that answers one point at a time."""

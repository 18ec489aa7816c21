"""Samples -> batches, pretraining targets, and what every recipe shares."""

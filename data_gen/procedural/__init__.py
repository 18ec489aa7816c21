"""Procedural rooms and streets: scenes, a ray caster with exact z, and cameras."""

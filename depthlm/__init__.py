"""Metric depth and distance from vision-language models.

The library under `data_gen`, `recipes` and `eval`: cameras, frames and their store, canonical images, markers,
questions, samples, frozen suites, answers, metrics and models. Importing it needs neither vLLM nor TRL.
"""

__version__ = "0.1.0"

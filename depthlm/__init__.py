"""Metric depth and distance from vision-language models.

The library under `data_gen`, `recipes` and `eval`: cameras, frames and their store, canonical images, markers,
questions, samples, frozen suites, answers, metrics, models and serving. Importing it needs neither vLLM nor TRL.

``depthlm.Client`` asks for measurements in photos.
"""

from typing import Any

__version__ = "0.1.0"

_CLIENTS = ("AsyncClient", "Client", "Measurement")


def __getattr__(name: str) -> Any:
    if name not in _CLIENTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from depthlm.measuring import Measurement
    from depthlm.serving.client import AsyncClient, Client

    return {"AsyncClient": AsyncClient, "Client": Client, "Measurement": Measurement}[name]

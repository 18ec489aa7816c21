"""Serving a model: starting and stopping a vLLM server."""

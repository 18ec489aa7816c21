"""Asking models: a vLLM process, the client, the gateway, point clouds, the web page."""

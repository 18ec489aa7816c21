"""The gateway: an OpenAI-compatible interface before a model's server, with marked points and measurements."""

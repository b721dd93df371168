"""The data plane: an OpenAI-compatible HTTP server that decides, relays and meters."""

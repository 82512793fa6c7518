"""The model server: an OpenAI-compatible HTTP API over the champion of one line, followed from a registry."""

"""Engines carry the messages of the systems below them: within one process, or over Flower."""

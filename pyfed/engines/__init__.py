"""Engines carry the messages of the systems below them: here, within one process."""

"""Saved states of a stream: one file each, from which the stream goes on bit for bit."""

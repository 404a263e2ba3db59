"""Recipes run stage by stage in a folder."""

"""Recipes of distillation: typed tables, their limits, and the files that ship."""

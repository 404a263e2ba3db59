"""Recipes at work: stages in a folder, what they need, what they begin with and leave."""

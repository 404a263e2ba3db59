"""The Wan recipe: networks from folders, cached prompts, its stages."""

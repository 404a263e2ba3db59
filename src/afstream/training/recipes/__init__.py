"""Training recipes: their tables, how they are read, and the files that ship."""

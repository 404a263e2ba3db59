"""Model families: how each one's files are recognised, opened and sized."""

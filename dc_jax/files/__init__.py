"""Files: their content, drafts of them, their paths, and the cache."""

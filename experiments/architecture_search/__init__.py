"""Table 4 of the paper: a search of architectures by training on small sets."""

"""Studies around the package: not needed to condense anything."""

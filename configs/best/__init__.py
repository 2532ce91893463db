"""The best recipes that we measured, by dataset and bytes."""

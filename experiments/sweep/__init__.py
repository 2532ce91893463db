"""Runs the cells of an experiment and makes tables of their results."""

"""Measurements with the package: commands to run from the root of the repository.

They are not part of the package and are not installed with it.
"""

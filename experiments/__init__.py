"""What is measured with the package: commands to run from the root of the repository.

Not part of the package, and not installed with it.
"""

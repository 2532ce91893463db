"""Datasets: their sources, their arrays, and the store that methods draw from."""

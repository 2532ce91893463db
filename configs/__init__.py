"""Configs of runs; installed as `dc_jax.configs`, of which this folder is the source.

`dc_jax/configs` is a link to here.
"""

"""Configs of runs, installed as `dc_jax.configs`.

In the repository `dc_jax/configs` is a link to this folder.
"""

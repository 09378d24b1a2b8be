"""Pipelines as NumPy code: what all other backends are compared with."""

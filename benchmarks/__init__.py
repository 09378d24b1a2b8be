"""Benchmarks, one file a subject; each prints JSON rows."""

"""Runs every op on one device and holds it against `kvcache.reference`.

The tests of `tests/graphs` and `tests/gpu` share all of it: what differs is the
device, and where a model comes from.
"""

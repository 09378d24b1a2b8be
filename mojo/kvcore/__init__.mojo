"""The bookkeeping of pages, as a Python extension module."""

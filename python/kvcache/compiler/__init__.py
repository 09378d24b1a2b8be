"""Summaries of blocks and sparse attention, compiled from short flows."""

"""Verifies the Mojo core's memory."""

from typing import Any

from kvcache.core.native_rows import RowMemory


def check_memory(module: Any, address: int, rows: RowMemory) -> None:
    """Verifies every invariant; to come."""

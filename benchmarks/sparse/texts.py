"""Real text that every Python has: its own language reference."""

from pydoc_data.topics import topics

BOOK = "specialnames"
"""The chapter on data model and special names, some 60 kB of English."""

HAYSTACK = "compound"
"""The chapter on compound statements, some 50 kB."""


def chapter(name: str) -> str:
    """Returns a chapter of the language reference."""
    return topics[name]

"""One findable page: what it holds, what it follows, how long it is kept."""

from dataclasses import dataclass, field

LOWEST_PRIORITY = 0


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """What names the contents of a page; nothing of it is ever printed."""

    parent: "Entry | bytes" = field(repr=False)
    """What the page follows: an entry, or a namespace before the first."""
    digest: bytes = field(repr=False)
    tokens: bytes = field(repr=False)
    """Its token ids, 8 bytes each."""


@dataclass(slots=True, eq=False)
class Entry:
    """What an indexed page holds; its tokens and its salt are never printed.

    An entry stays the same one while its contents move from page to page.
    """

    page: int
    """Where the contents are."""
    key: Key
    """Which contents these are."""
    depth: int = 0
    """Pages before it."""
    priority: int = LOWEST_PRIORITY
    """Of cached pages, the lowest go first; 0 to 100."""
    expires: float = 0.0
    """When the priority falls back to the default, in seconds; 0.0 if it does
    not exceed the default."""
    children: set["Entry"] = field(default_factory=set, repr=False)
    """The entries that follow it."""

    @property
    def parent(self) -> "Entry | bytes":
        """What it follows: an entry, or a namespace before the first."""
        return self.key.parent

    @property
    def parent_page(self) -> int | None:
        """The page that it follows; None after a namespace."""
        return None if isinstance(self.parent, bytes) else self.parent.page

"""What the core knows of a page: 64 bytes, a line of the processor's cache."""

from .digest import Digest

comptime NO_LINK: UInt32 = 0
"""A link to nothing; a link to a page is the page plus one."""

comptime ROOT: UInt32 = 1 << 31
"""With a namespace: the parent of a first page."""

comptime _REFERENCES: UInt32 = (1 << 24) - 1
comptime _INDEXED: UInt32 = 1 << 24
comptime _PRIORITY_SHIFT: UInt32 = 25

comptime DEFAULT_PRIORITY = 35
"""The priority of what nobody asked to keep."""

comptime NUM_PRIORITIES = 101
"""Priorities go from 0 to 100."""


def link_to(page: Int) -> UInt32:
    """Returns the link to a page.

    Args:
        page: The page.

    Returns:
        The page plus one.
    """
    return UInt32(page + 1)


def linked(link: UInt32) -> Int:
    """Returns the page of a link.

    Args:
        link: A link.

    Returns:
        The page; -1 for `NO_LINK`.
    """
    return Int(link) - 1


struct Page(TrivialRegisterPassable):
    """References, place in a list, and place in the prefix tree.

    All zeros is a blank page that stands nowhere.
    """

    var state: UInt32
    """References, whether the page is indexed, and its priority."""
    var before: UInt32
    """Link to the page before it in its list."""
    var behind: UInt32
    """Link to the page behind it in its list."""
    var parent: UInt32
    """Link to the page it follows, or `ROOT` with a namespace."""
    var child: UInt32
    """Link to one of the pages that follow it, the newest."""
    var elder: UInt32
    """Link to the next older page with the same parent."""
    var younger: UInt32
    """Link to the next newer page with the same parent."""
    var bucket: UInt32
    """Link to the next page of its hash bucket."""
    var digest: Digest
    """Digest of its tokens and of all before them."""
    var head: UInt32
    """Link to the first page of the hash bucket that has this page's number.

    It says nothing of the page: the table lies in the pages, since a page with
    it is one line of the processor's cache."""
    var depth: UInt32
    """Pages before it in its prefix, if its priority ends."""
    var expires: Float64
    """When its priority ends; 0 where it does not."""

    def references(self) -> Int:
        """Returns how many rows hold the page.

        Returns:
            The number of references.
        """
        return Int(self.state & _REFERENCES)

    def is_indexed(self) -> Bool:
        """Returns whether the page is findable.

        Returns:
            Whether it is.
        """
        return (self.state & _INDEXED) != 0

    def is_cached(self) -> Bool:
        """Returns whether the page is findable and held by nobody.

        Returns:
            Whether it is.
        """
        return (self.state & (_REFERENCES | _INDEXED)) == _INDEXED

    def priority(self) -> Int:
        """Returns the page's priority.

        Returns:
            From 0 to 100.
        """
        return Int(self.state >> _PRIORITY_SHIFT)

    def add_references(mut self, count: Int):
        """Changes the number of references.

        Args:
            count: How many are added; negative to drop some.
        """
        self.state = UInt32(Int(self.state) + count)

    def set_indexed(mut self, priority: Int):
        """Marks the page as findable.

        Args:
            priority: Its priority.
        """
        self.state = (
            (self.state & _REFERENCES)
            | _INDEXED
            | (UInt32(priority) << _PRIORITY_SHIFT)
        )

    def set_priority(mut self, priority: Int):
        """Changes an indexed page's priority.

        Args:
            priority: The new one.
        """
        self.set_indexed(priority)

    def clear_indexed(mut self):
        """Marks the page as not findable."""
        self.state &= _REFERENCES

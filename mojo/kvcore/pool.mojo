"""Which pages of one memory are free, and which goes first."""

from std.bit import count_trailing_zeros

from .memory import Ptr, release_memory, zeroed
from .page import NO_LINK, NUM_PRIORITIES, Page, link_to, linked


struct Pool(Movable):
    """The pages of the device, or those of the host.

    A page is held, blank or cached. Blank pages are handed out first, oldest
    first; then the cached page at the front of the lowest list is the victim.
    """

    # Its methods are inlined: a call that changes a struct inside another one
    # copies the whole struct there and back.

    var pages: Ptr[Page]
    """All pages of the core."""
    var first: Int
    """The pool's first page."""
    var size: Int
    """How many pages it has."""
    var num_touched: Int
    """Pages that were handed out before; the others are blank."""
    var num_blank: Int
    """Blank pages among those that were handed out before."""
    var num_cached: Int
    """Cached pages."""
    var blank_front: UInt32
    """Link to the oldest blank page."""
    var blank_back: UInt32
    """Link to the newest blank page."""
    var fronts: Ptr[UInt32]
    """Links to the first page of each priority, `[NUM_PRIORITIES]`."""
    var backs: Ptr[UInt32]
    """Links to the last page of each priority, `[NUM_PRIORITIES]`."""
    var occupied: SIMD[DType.uint64, 2]
    """A bit for each priority that has pages."""

    def __init__(out self, pages: Ptr[Page], *, first: Int, size: Int):
        """Starts with every page blank.

        Args:
            pages: All pages of the core.
            first: The pool's first page.
            size: How many pages it has.
        """
        self.pages = pages
        self.first = first
        self.size = size
        self.num_touched = 0
        self.num_blank = 0
        self.num_cached = 0
        self.blank_front = NO_LINK
        self.blank_back = NO_LINK
        self.fronts = zeroed[UInt32](NUM_PRIORITIES)
        self.backs = zeroed[UInt32](NUM_PRIORITIES)
        self.occupied = 0

    def __deinit__(deinit self):
        """Gives the lists back."""
        release_memory(self.fronts)
        release_memory(self.backs)

    def num_free(self) -> Int:
        """Returns how many pages can be handed out.

        Returns:
            The number of pages.
        """
        var fresh = self.size - self.num_touched
        return fresh + self.num_blank + self.num_cached

    def holds(self, page: Int) -> Bool:
        """Returns whether a page is one of this pool.

        Args:
            page: The page.

        Returns:
            Whether it is.
        """
        return self.first <= page < self.first + self.size

    @always_inline
    def take_blank(mut self) -> Int:
        """Takes the oldest blank page.

        Returns:
            The page, or -1 if none is blank.
        """
        if self.num_touched < self.size:
            self.num_touched += 1
            return self.first + self.num_touched - 1
        if self.num_blank == 0:
            return -1
        var page = linked(self.blank_front)
        self.blank_front = self.pages[unsafe_offset=page].behind
        self.num_blank -= 1
        return page

    @always_inline
    def add_blank(mut self, page: Int):
        """Makes a page that nobody holds blank.

        Args:
            page: The page; not indexed.
        """
        self.pages[unsafe_offset=page].behind = NO_LINK
        if self.num_blank == 0:
            self.blank_front = link_to(page)
        else:
            var back = linked(self.blank_back)
            self.pages[unsafe_offset=back].behind = link_to(page)
        self.blank_back = link_to(page)
        self.num_blank += 1

    @always_inline
    def victim(self) -> Int:
        """Returns the cached page that goes first, or -1 without one.

        Returns:
            The page, or -1.
        """
        if self.occupied[0] != 0:
            var priority = Int(count_trailing_zeros(self.occupied[0]))
            return linked(self.fronts[unsafe_offset=priority])
        if self.occupied[1] != 0:
            var priority = 64 + Int(count_trailing_zeros(self.occupied[1]))
            return linked(self.fronts[unsafe_offset=priority])
        return -1

    @always_inline
    def add_cached(mut self, page: Int):
        """Puts an indexed page that nobody holds into its list.

        It goes before its parent where that stands in the same list, else to
        the end: what follows a page is evicted before it.

        Args:
            page: The page.
        """
        var parent = linked(self.pages[unsafe_offset=page].parent)
        var priority = self.pages[unsafe_offset=page].priority()
        self.num_cached += 1
        if self.holds(parent):
            ref above = self.pages[unsafe_offset=parent]
            if above.is_cached() and above.priority() == priority:
                self._link(above.before, page, link_to(parent), priority)
                return
        self._link(self.backs[unsafe_offset=priority], page, NO_LINK, priority)

    @always_inline
    def remove_cached(mut self, page: Int):
        """Takes a page out of its list; its own links stay as they are.

        Args:
            page: The page.
        """
        ref entry = self.pages[unsafe_offset=page]
        var priority = entry.priority()
        self.num_cached -= 1
        if entry.before == NO_LINK:
            self.fronts[unsafe_offset=priority] = entry.behind
        else:
            self.pages[unsafe_offset=linked(entry.before)].behind = entry.behind
        if entry.behind == NO_LINK:
            self.backs[unsafe_offset=priority] = entry.before
        else:
            self.pages[unsafe_offset=linked(entry.behind)].before = entry.before
        if self.fronts[unsafe_offset=priority] == NO_LINK:
            self.occupied[priority >> 6] &= ~(
                UInt64(1) << UInt64(priority & 63)
            )

    @always_inline
    def restore_cached(mut self, page: Int):
        """Undoes the last `remove_cached` that was not undone yet.

        Args:
            page: The page that was removed.
        """
        ref entry = self.pages[unsafe_offset=page]
        self.num_cached += 1
        self._link(entry.before, page, entry.behind, entry.priority())

    @always_inline
    def _link(
        mut self, before: UInt32, page: Int, behind: UInt32, priority: Int
    ):
        ref entry = self.pages[unsafe_offset=page]
        entry.before = before
        entry.behind = behind
        if before == NO_LINK:
            self.fronts[unsafe_offset=priority] = link_to(page)
            self.occupied[priority >> 6] |= UInt64(1) << UInt64(priority & 63)
        else:
            self.pages[unsafe_offset=linked(before)].behind = link_to(page)
        if behind == NO_LINK:
            self.backs[unsafe_offset=priority] = link_to(page)
        else:
            self.pages[unsafe_offset=linked(behind)].before = link_to(page)

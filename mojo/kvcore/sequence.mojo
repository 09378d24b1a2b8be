"""The pages of one sequence, in order."""

from .memory import Ptr, grown, release_memory, zeroed
from .page import DEFAULT_PRIORITY

comptime _FIRST_CAPACITY = 16


struct Sequence(TrivialRegisterPassable):
    """A row of pages, and how much of it is findable.

    All zeros is a sequence that was never claimed.
    """

    var pages: Ptr[UInt32]
    """The pages in order, `[num_pages]`."""
    var capacity: UInt32
    """Pages that fit before the row grows."""
    var num_pages: UInt32
    """Pages that the sequence holds."""
    var num_committed: UInt32
    """Leading pages of them that are findable."""
    var namespace: UInt32
    """Where the sequence begins."""
    var processed: UInt32
    """Tokens that were computed; of a running batch's sequences only."""
    var length: UInt32
    """Tokens that are known; of a running batch's sequences only."""
    var is_claimed: Bool
    """Whether the sequence is taken."""
    var priority: UInt8
    """Priority of what it commits."""
    var expires: Float64
    """When that ends; 0 where it is no more than the default."""

    def claim(mut self, namespace: Int):
        """Takes the sequence.

        Args:
            namespace: Where it begins.
        """
        if self.capacity == 0:
            self.pages = zeroed[UInt32](_FIRST_CAPACITY)
            self.capacity = _FIRST_CAPACITY
        self.num_pages = 0
        self.num_committed = 0
        self.namespace = UInt32(namespace)
        self.processed = 0
        self.length = 0
        self.is_claimed = True
        self.priority = DEFAULT_PRIORITY
        self.expires = 0

    def make_room(mut self, num_pages: Int):
        """Lets the row take more pages.

        Args:
            num_pages: Pages in all.
        """
        if num_pages > Int(self.capacity):
            self.capacity = UInt32(max(2 * Int(self.capacity), num_pages))
            self.pages = grown(self.pages, Int(self.capacity))

    def append(mut self, page: Int):
        """Appends a page.

        Args:
            page: The page.
        """
        self.make_room(Int(self.num_pages) + 1)
        self.pages[unsafe_offset=Int(self.num_pages)] = UInt32(page)
        self.num_pages += 1

    def page(self, column: Int) -> Int:
        """Returns a page.

        Args:
            column: Its place in the row.

        Returns:
            The page.
        """
        return Int(self.pages[unsafe_offset=column])

    def set_page(self, column: Int, page: Int):
        """Puts a page in the place of another.

        Args:
            column: The place.
            page: The page.
        """
        self.pages[unsafe_offset=column] = UInt32(page)

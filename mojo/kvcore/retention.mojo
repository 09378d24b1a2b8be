"""When priorities end, and how one page's passes to those before it."""

from .memory import Stack


struct Deadline(TrivialRegisterPassable):
    """A page, and when its priority ends."""

    var expires: Float64
    """The time."""
    var depth: Int
    """Pages before it in its prefix."""
    var page: Int
    """The page."""

    def __init__(out self, expires: Float64, *, depth: Int, page: Int):
        """Names a deadline.

        Args:
            expires: The time.
            depth: Pages before it in its prefix.
            page: The page.
        """
        self.expires = expires
        self.depth = depth
        self.page = page

    def is_before(self, other: Self) -> Bool:
        """Returns whether this one comes first.

        Args:
            other: Another one.

        Returns:
            Whether it does; at the same time the deeper page does, so that
            what follows a page falls before it.
        """
        if self.expires != other.expires:
            return self.expires < other.expires
        if self.depth != other.depth:
            return self.depth > other.depth
        return self.page < other.page


struct Deadlines(Movable):
    """A heap of deadlines, the next one first.

    One that no longer fits its page stays until its time comes.
    """

    var clock: Float64
    """The time, as the caller told it."""
    var _heap: Stack[Deadline]

    def __init__(out self):
        """Starts at time 0 with none."""
        self.clock = 0
        self._heap = Stack[Deadline]()

    def add(mut self, deadline: Deadline):
        """Adds a deadline, unless it never comes.

        Args:
            deadline: The deadline.
        """
        if deadline.expires > 1e300:
            return
        self._heap.push(deadline)
        var place = self._heap.length - 1
        while place > 0:
            var above = (place - 1) // 2
            if not self._heap[place].is_before(self._heap[above]):
                return
            self._swap(place, above)
            place = above

    def is_due(self) -> Bool:
        """Returns whether a deadline has come.

        Returns:
            Whether one has.
        """
        return self._heap.length > 0 and self._heap[0].expires <= self.clock

    def pop(mut self) -> Deadline:
        """Takes the next deadline; there must be one.

        Returns:
            The deadline.
        """
        var next = self._heap[0]
        var last = self._heap.pop()
        if self._heap.length > 0:
            self._heap.values[unsafe_offset=0] = last
            self._sink()
        return next

    def _sink(mut self):
        var place = 0
        while True:
            var below = 2 * place + 1
            if below >= self._heap.length:
                return
            if below + 1 < self._heap.length and self._heap[
                below + 1
            ].is_before(self._heap[below]):
                below += 1
            if not self._heap[below].is_before(self._heap[place]):
                return
            self._swap(place, below)
            place = below

    def _swap(mut self, first: Int, second: Int):
        var kept = self._heap[first]
        self._heap.values[unsafe_offset=first] = self._heap[second]
        self._heap.values[unsafe_offset=second] = kept

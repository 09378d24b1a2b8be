"""Pages, prefixes and sequences of one replica."""

from .digest import Digest
from .index import NO_PAGE, Namespace, PrefixIndex
from .memory import Ptr, Stack, at_a_line, release_memory, touched, zeroed
from .page import DEFAULT_PRIORITY, NO_LINK, ROOT, Page, link_to, linked
from .plan import Plan
from .pool import Pool
from .retention import Deadline, Deadlines
from .ghosts import Ghosts
from .sequence import Sequence
from .status import NO_SEQUENCE_LEFT, OK, UNKNOWN_SEQUENCE

comptime COPY = 0
"""A move from one page of the device to another."""
comptime OFFLOAD = 1
"""A move from a page of the device to one of the host."""
comptime ONLOAD = 2
"""A move from a page of the host to one of the device."""


struct Counters(TrivialRegisterPassable):
    """What a caller reads at any time, 64 bits each."""

    var num_free: Int
    """Pages of the device that no sequence holds."""
    var num_cached: Int
    """Those of them that are findable."""
    var num_evicted: Int
    """Findable pages that were given up for others, since the start."""
    var num_copied: Int
    """Pages copied on write, since the start."""
    var num_offloaded: Int
    """Pages moved to the host, since the start."""
    var num_onloaded: Int
    """Pages moved back, since the start."""
    var num_host_cached: Int
    """Findable pages of the host."""
    var num_indexed: Int
    """Findable pages, held or not."""


struct Move(TrivialRegisterPassable):
    """A page whose contents have to go to another page."""

    var kind: UInt32
    """`COPY`, `OFFLOAD` or `ONLOAD`."""
    var source: UInt32
    """The page to read."""
    var target: UInt32
    """The page to write."""

    def __init__(out self, kind: Int, *, source: Int, target: Int):
        """Names a move.

        Args:
            kind: `COPY`, `OFFLOAD` or `ONLOAD`.
            source: The page to read.
            target: The page to write.
        """
        self.kind = UInt32(kind)
        self.source = UInt32(source)
        self.target = UInt32(target)


struct Core(Movable):
    """Pages, prefixes and sequences of one replica.

    Pages of the host have the ids behind those of the device.
    """

    var page_size: Int
    """Tokens per page."""
    var is_caching: Bool
    """Whether sequences share pages."""
    var pages: Ptr[Page]
    """All pages, those of the device first."""
    var device: Pool
    """The device's pages."""
    var host: Pool
    """The host's pages."""
    var index: PrefixIndex
    """Which page holds what."""
    var sequences: Ptr[Sequence]
    """All sequences, `[num_sequences]`."""
    var num_sequences: Int
    """How many sequences can be claimed at a time."""
    var unclaimed: Stack[UInt32]
    """Sequences to claim, the next one last."""
    var deadlines: Deadlines
    """When priorities end."""
    var ghosts: Ghosts
    """What was evicted lately."""
    var moves: Stack[Move]
    """What the last call wants to be moved, in order."""
    var plans: Stack[Plan]
    """What each row of the current call gets."""
    var hits: Stack[UInt32]
    """The pages that all plans found."""
    var removed: Stack[UInt32]
    """Pages that the current call took out of their lists."""
    var num_hits_removed: Int
    """How many of them are whole hits."""
    var loaded: Ptr[UInt32]
    """Of each host page, link to where the current call moved it."""
    var counters: Ptr[Counters]
    """Where the caller reads counts."""
    var detail: SIMD[DType.int64, 2]
    """Numbers that go with an error."""
    var _page_memory: Ptr[Page]

    def __init__(
        out self,
        *,
        num_pages: Int,
        num_host_pages: Int,
        page_size: Int,
        num_sequences: Int,
        is_caching: Bool,
        key: Ptr[UInt64],
        digest_bits: Int,
        counters: Ptr[Counters],
    ):
        """Starts with every page blank and no sequence claimed.

        Args:
            num_pages: Pages of the device.
            num_host_pages: Pages of the host.
            page_size: Tokens per page.
            num_sequences: Sequences that can be claimed at a time.
            is_caching: Whether sequences share pages.
            key: The digest's key; must outlive the core.
            digest_bits: 128; 0 lets all digests collide, for tests.
            counters: Where counts are written; must outlive the core.
        """
        var total = num_pages + num_host_pages
        self.page_size = page_size
        self.is_caching = is_caching
        self._page_memory = touched[Page](total + 1, ahead=total // 2)
        self.pages = at_a_line(self._page_memory)
        self.device = Pool(self.pages, first=0, size=num_pages)
        self.host = Pool(self.pages, first=num_pages, size=num_host_pages)
        self.index = PrefixIndex(
            self.pages,
            num_pages=total,
            page_size=page_size,
            key=key,
            digest_bits=digest_bits,
        )
        self.sequences = zeroed[Sequence](num_sequences)
        self.num_sequences = num_sequences
        self.unclaimed = Stack[UInt32](max(num_sequences, 1))
        for seq in reversed(range(num_sequences)):
            self.unclaimed.push(UInt32(seq))
        self.deadlines = Deadlines()
        self.ghosts = Ghosts()
        self.moves = Stack[Move]()
        self.plans = Stack[Plan]()
        self.hits = Stack[UInt32]()
        self.removed = Stack[UInt32]()
        self.num_hits_removed = 0
        self.loaded = zeroed[UInt32](num_host_pages)
        self.counters = counters
        self.detail = 0
        self.count()

    def __deinit__(deinit self):
        """Gives all memory back."""
        for seq in range(self.num_sequences):
            release_memory(self.sequences[unsafe_offset=seq].pages)
        release_memory(self.sequences)
        release_memory(self._page_memory)
        release_memory(self.loaded)

    def count(mut self):
        """Writes the counts that change with the pools."""
        ref counters = self.counters[unsafe_offset=0]
        counters.num_free = self.device.num_free()
        counters.num_cached = self.device.num_cached
        counters.num_host_cached = self.host.num_cached
        counters.num_indexed = self.index.num_indexed

    def fail(mut self, status: Int, first: Int = 0, second: Int = 0) -> Int:
        """Keeps the numbers that go with an error.

        Args:
            status: The error.
            first: A number.
            second: Another one.

        Returns:
            The error.
        """
        self.detail = SIMD[DType.int64, 2](Int64(first), Int64(second))
        return status

    def is_claimed(self, seq: Int) -> Bool:
        """Returns whether there is such a sequence and it is taken.

        Args:
            seq: Its number.

        Returns:
            Whether it is.
        """
        if not 0 <= seq < self.num_sequences:
            return False
        return self.sequences[unsafe_offset=seq].is_claimed

    def parent_of(self, seq: Int, column: Int) -> UInt32:
        """Returns what the page in a column follows.

        Args:
            seq: A sequence.
            column: A place in its row.

        Returns:
            A page's link, or `ROOT` with the namespace.
        """
        ref sequence = self.sequences[unsafe_offset=seq]
        if column == 0:
            return ROOT | sequence.namespace
        return link_to(sequence.page(column - 1))

    def add_namespace(mut self, digest: Digest) -> Int:
        """Returns a new place where sequences begin.

        Args:
            digest: Stands for the salt and the model.

        Returns:
            Its number.
        """
        self.index.namespaces.push(Namespace(digest))
        return self.index.namespaces.length - 1

    def claim(mut self, namespace: Int) -> Int:
        """Takes a sequence.

        Args:
            namespace: Where it begins.

        Returns:
            Its number, or -1 if none is left.
        """
        if self.unclaimed.length == 0:
            return -1
        var seq = Int(self.unclaimed.pop())
        self.sequences[unsafe_offset=seq].claim(namespace)
        return seq

    def release(mut self, seq: Int) -> Int:
        """Gives a sequence and its references back, tail first.

        Args:
            seq: The sequence.

        Returns:
            A status.
        """
        if not self.is_claimed(seq):
            return self.fail(UNKNOWN_SEQUENCE, seq)
        self.cut(seq, 0)
        self.sequences[unsafe_offset=seq].is_claimed = False
        self.unclaimed.push(UInt32(seq))
        return OK

    def cut(mut self, seq: Int, num_pages: Int):
        """Lets go of a row's pages behind the first few, tail first.

        Args:
            seq: The sequence.
            num_pages: Pages that stay.
        """
        ref sequence = self.sequences[unsafe_offset=seq]
        var column = Int(sequence.num_pages)
        while column > num_pages:
            column -= 1
            self.drop_reference(sequence.page(column))
        if num_pages < Int(sequence.num_pages):
            sequence.num_pages = UInt32(num_pages)
        if num_pages < Int(sequence.num_committed):
            sequence.num_committed = UInt32(num_pages)

    def retain(mut self, page: Int) -> Bool:
        """Adds a reference to a findable or held page.

        Args:
            page: The page.

        Returns:
            Whether nobody held it before.
        """
        ref entry = self.pages[unsafe_offset=page]
        var was_free = entry.references() == 0
        if was_free:
            if self.device.holds(page):
                self.device.remove_cached(page)
            else:
                self.host.remove_cached(page)
        entry.add_references(1)
        return was_free

    def drop_reference(mut self, page: Int):
        """Drops a reference to a page of the device; the last one frees it.

        Args:
            page: The page.
        """
        ref entry = self.pages[unsafe_offset=page]
        entry.add_references(-1)
        if entry.references() != 0:
            return
        if entry.is_indexed():
            self.device.add_cached(page)
        else:
            self.device.add_blank(page)

    def allocate(mut self) -> Int:
        """Takes a page of the device; there must be a free one.

        Returns:
            The page, with one reference.
        """
        var page = self.device.take_blank()
        if page < 0:
            page = self._evict()
        self.pages[unsafe_offset=page].add_references(1)
        if self.is_caching:
            self.index.fetch_tokens(page)
        return page

    def move_entry(mut self, source: Int, target: Int):
        """Lets another page stand for what a page holds.

        Args:
            source: An indexed page that stands in no list.
            target: A page that is not indexed; it keeps its references.
        """
        self.index.move(source, target)
        var old = self.pages[unsafe_offset=source]
        self.pages[unsafe_offset=source].expires = 0
        if old.expires > 0:
            self.set_expires(target, old.expires, depth=Int(old.depth))

    def set_expires(mut self, page: Int, expires: Float64, *, depth: Int):
        """Says when a page's priority ends.

        Args:
            page: The page.
            expires: The time, not 0.
            depth: Pages before it in its prefix.
        """
        self.pages[unsafe_offset=page].expires = expires
        self.pages[unsafe_offset=page].depth = UInt32(depth)
        self.deadlines.add(Deadline(expires, depth=depth, page=page))

    def forget(mut self, page: Int):
        """Removes a page from the index for good.

        Args:
            page: An indexed page that stands in no list.
        """
        self.index.remove(page)
        self.pages[unsafe_offset=page].expires = 0

    def lose(mut self, page: Int):
        """Removes a page from the index, and remembers when.

        Args:
            page: An indexed page that stands in no list.
        """
        self.ghosts.add(
            self.pages[unsafe_offset=page].digest, self.deadlines.clock
        )
        self.forget(page)
        self.counters[unsafe_offset=0].num_evicted += 1

    def fetch_ahead(self, page: Int):
        """Brings near what the next eviction will touch.

        Args:
            page: The page that it will take, itself brought near before; -1
                for none.
        """
        if page < 0:
            return
        ref entry = self.pages[unsafe_offset=page]
        self.index.fetch_page(linked(entry.behind))
        self.index.fetch_bucket(entry.digest)
        self.ghosts.fetch_ahead(entry.digest)

    def _evict(mut self) -> Int:
        """Takes the device's victim, whose contents may go to the host."""
        var page = self.device.victim()
        self.fetch_ahead(linked(self.pages[unsafe_offset=page].behind))
        self.device.remove_cached(page)
        var target = self._host_page()
        if target < 0:
            self.lose(page)
            return page
        self.move_entry(page, target)
        self.host.add_cached(target)
        self.moves.push(Move(OFFLOAD, source=page, target=target))
        self.counters[unsafe_offset=0].num_offloaded += 1
        return page

    def _host_page(mut self) -> Int:
        var page = self.host.take_blank()
        if page >= 0:
            return page
        page = self.host.victim()
        if page >= 0:
            self.host.remove_cached(page)
            self.lose(page)
        return page

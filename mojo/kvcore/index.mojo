"""The prefix tree: which page holds which tokens behind which others.

A page is known by its token ids and by the page, or the namespace, that it
follows; what follows a page is removed before the page is. Digests only find
candidates.
"""

from std.memory import unsafe_memcpy
from std.sys.intrinsics import prefetch

from .digest import Digest, page_digest, wide_page_digest
from .memory import Ptr, Stack, at_address, release_memory, zeroed
from .page import NO_LINK, ROOT, Page, link_to, linked
from .tokens import Tokens

comptime TOKENS_PER_LINE = 16
"""Token ids in a line of the processor's cache."""

comptime NO_PAGE = -1
"""What a search returns that found nothing."""


struct Namespace(TrivialRegisterPassable):
    """Where sequences begin that may share pages."""

    var child: UInt32
    """Link to the newest of its first pages."""
    var digest: Digest
    """Stands for the salt and the model."""

    def __init__(out self, digest: Digest):
        """Starts without pages.

        Args:
            digest: Stands for the salt and the model.
        """
        self.child = NO_LINK
        self.digest = digest


struct PrefixIndex(Movable):
    """Finds the page that continues a sequence.

    Time per page is constant, unless digests collide.
    """

    var pages: Ptr[Page]
    """All pages of the core."""
    var kept: Ptr[Int32]
    """Token ids of each page, `[num_pages, page_size]`."""
    var page_size: Int
    """Tokens per page."""
    var namespaces: Stack[Namespace]
    """Where sequences begin."""
    var num_indexed: Int
    """How many pages are findable."""
    var _shift: UInt64
    var _key: Ptr[UInt64]
    var _mask: UInt64
    var _scratch: Ptr[Int32]

    def __init__(
        out self,
        pages: Ptr[Page],
        *,
        num_pages: Int,
        page_size: Int,
        key: Ptr[UInt64],
        digest_bits: Int,
    ):
        """Starts with nothing indexed.

        Args:
            pages: All pages of the core.
            num_pages: How many there are.
            page_size: Tokens per page.
            key: The digest's key; must outlive the index.
            digest_bits: 128; 0 lets all digests collide, for tests.
        """
        self.pages = pages
        self.kept = zeroed[Int32](num_pages * page_size + 4)
        self.page_size = page_size
        self.namespaces = Stack[Namespace]()
        self.num_indexed = 0
        # At most half as many buckets as pages: they are in the first half.
        var bits = 0
        while (4 << bits) <= num_pages:
            bits += 1
        self._shift = UInt64(63 - bits)
        self._key = key
        self._mask = 0 if digest_bits == 0 else ~UInt64(0)
        self._scratch = zeroed[Int32](page_size + 4)

    def __deinit__(deinit self):
        """Gives the tables back."""
        release_memory(self.kept)
        release_memory(self._scratch)

    def tokens_of(self, page: Int) -> Ptr[Int32]:
        """Returns a page's token ids.

        Args:
            page: The page.

        Returns:
            Its ids, `[page_size]`.
        """
        return self.kept.unsafe_offset(page * self.page_size)

    def digest_of(self, parent: UInt32) -> Digest:
        """Returns the digest of what a page follows.

        Args:
            parent: A page's link, or `ROOT` with a namespace.

        Returns:
            Its digest.
        """
        if (parent & ROOT) != 0:
            return self.namespaces[Int(parent ^ ROOT)].digest
        return self.pages[unsafe_offset=linked(parent)].digest

    def first_child(self, parent: UInt32) -> UInt32:
        """Returns the newest page behind another.

        Args:
            parent: A page's link, or `ROOT` with a namespace.

        Returns:
            A link.
        """
        if (parent & ROOT) != 0:
            return self.namespaces[Int(parent ^ ROOT)].child
        return self.pages[unsafe_offset=linked(parent)].child

    def digest(self, parent: Digest, kept: Ptr[Int32]) -> Digest:
        """Returns the digest of a page's tokens.

        Args:
            parent: The digest of what the page follows.
            kept: Its token ids, `[page_size]`.

        Returns:
            The digest.
        """
        var made = page_digest(parent, kept, self.page_size, self._key)
        return Digest(made.low & self._mask, made.high & self._mask)

    def digest_of_tokens(
        self, parent: Digest, tokens: Tokens, first: Int
    ) -> Digest:
        """Returns the digest of a page's worth of a caller's tokens.

        Args:
            parent: The digest of what they follow.
            tokens: The tokens; those looked at fit 32 bits.
            first: The first one's place.

        Returns:
            The digest.
        """
        var made: Digest
        if tokens.is_wide and self.page_size % 4 == 0:
            var ids = at_address[Int64](tokens.address).unsafe_offset(first)
            made = wide_page_digest(parent, ids, self.page_size, self._key)
        else:
            tokens.copy_to(self._scratch, first, self.page_size)
            made = page_digest(parent, self._scratch, self.page_size, self._key)
        return Digest(made.low & self._mask, made.high & self._mask)

    def find(self, parent: UInt32, tokens: Tokens, first: Int) -> Int:
        """Returns the page that holds a caller's tokens behind a parent.

        The newest page behind the parent is compared first: along a prefix
        that is there no digest is computed.

        Args:
            parent: A page's link, or `ROOT` with a namespace.
            tokens: The tokens.
            first: The place of the first one.

        Returns:
            The page, or `NO_PAGE`.
        """
        var newest = linked(self.first_child(parent))
        if newest < 0:
            return NO_PAGE
        self._fetch_ahead(newest)
        if tokens.equal(first, self.tokens_of(newest), self.page_size):
            return newest
        if self.pages[unsafe_offset=newest].elder == NO_LINK:
            return NO_PAGE
        if not tokens.fit(first, first + self.page_size):
            return NO_PAGE
        var digest = self.digest_of_tokens(
            self.digest_of(parent), tokens, first
        )
        return self._candidate(parent, digest, tokens, first)

    def find_kept(
        self, parent: UInt32, digest: Digest, kept: Ptr[Int32]
    ) -> Int:
        """Returns the page that holds the same as given memory.

        Args:
            parent: A page's link, or `ROOT` with a namespace.
            digest: The digest of the tokens behind the parent.
            kept: Token ids, `[page_size]`.

        Returns:
            The page, or `NO_PAGE`.
        """
        if self.first_child(parent) == NO_LINK:
            return NO_PAGE
        var there = Tokens(address=Int(kept), length=self.page_size, width=4)
        return self._candidate(parent, digest, there, 0)

    def insert(
        mut self, page: Int, parent: UInt32, digest: Digest, priority: Int
    ):
        """Indexes a page.

        Args:
            page: The page; not indexed, its token ids in place.
            parent: What it follows.
            digest: The digest of its tokens behind the parent.
            priority: Its priority.
        """
        ref entry = self.pages[unsafe_offset=page]
        entry.set_indexed(priority)
        entry.digest = digest
        entry.child = NO_LINK
        self._adopt(page, parent)
        self._enter(page)
        self.num_indexed += 1

    def remove(mut self, page: Int):
        """Forgets what a page holds; what follows it is left alone.

        Args:
            page: An indexed page.
        """
        self._leave_bucket(page)
        self._disown(page)
        var child = self.pages[unsafe_offset=page].child
        while child != NO_LINK:
            ref below = self.pages[unsafe_offset=linked(child)]
            below.parent = NO_LINK
            child = below.elder
        ref entry = self.pages[unsafe_offset=page]
        entry.parent = NO_LINK
        entry.child = NO_LINK
        entry.clear_indexed()
        self.num_indexed -= 1

    def move(mut self, source: Int, target: Int):
        """Lets another page stand for what a page holds.

        Args:
            source: An indexed page; not indexed afterwards.
            target: A page that is not indexed; it keeps its references.
        """
        var old = self.pages[unsafe_offset=source]
        self._leave_bucket(source)
        self._disown(source)
        self.pages[unsafe_offset=source].child = NO_LINK
        self.pages[unsafe_offset=source].parent = NO_LINK
        self.pages[unsafe_offset=source].clear_indexed()
        ref entry = self.pages[unsafe_offset=target]
        entry.set_indexed(old.priority())
        entry.digest = old.digest
        entry.child = old.child
        unsafe_memcpy(
            dest=self.tokens_of(target),
            src=self.tokens_of(source),
            count=self.page_size,
        )
        self._adopt(target, old.parent)
        self._enter(target)
        var child = old.child
        while child != NO_LINK:
            ref below = self.pages[unsafe_offset=linked(child)]
            below.parent = link_to(target)
            child = below.elder

    def fetch_bucket(self, digest: Digest):
        """Brings near where a digest will be looked up.

        Args:
            digest: The digest.
        """
        self.fetch_page(self._bucket_of(digest))

    def first_in_bucket(self, digest: Digest) -> UInt32:
        """Returns the page that entered a digest's bucket last.

        Args:
            digest: The digest.

        Returns:
            A link.
        """
        return self.pages[unsafe_offset=self._bucket_of(digest)].head

    def _fetch_ahead(self, page: Int):
        """Has what follows a page brought near, while the page is compared."""
        var child = linked(self.pages[unsafe_offset=page].child)
        if child < 0:
            return
        var next = linked(self.pages[unsafe_offset=child].child)
        if next < 0:
            return
        self.fetch_page(next)
        self.fetch_tokens(next)

    def fetch_page(self, page: Int):
        """Brings near what is known of a page.

        Args:
            page: The page; one before the first is as good as none.
        """
        prefetch(self.pages.unsafe_offset(page).unsafe_bitcast[UInt8]())

    def fetch_tokens(self, page: Int):
        """Brings near where a page's token ids are.

        Args:
            page: The page.
        """
        var kept = self.tokens_of(page)
        for line in range(0, self.page_size, TOKENS_PER_LINE):
            prefetch(kept.unsafe_offset(line))

    def _candidate(
        self, parent: UInt32, digest: Digest, tokens: Tokens, first: Int
    ) -> Int:
        var link = self.pages[unsafe_offset=self._bucket_of(digest)].head
        while link != NO_LINK:
            ref entry = self.pages[unsafe_offset=linked(link)]
            if entry.digest == digest and entry.parent == parent:
                var kept = self.tokens_of(linked(link))
                if tokens.equal(first, kept, self.page_size):
                    return linked(link)
            link = entry.bucket
        return NO_PAGE

    def _bucket_of(self, digest: Digest) -> Int:
        """Returns a digest's bucket: a number that a page has, too."""
        return Int((digest.mixed() >> 1) >> self._shift)

    @always_inline
    def _enter(mut self, page: Int):
        ref entry = self.pages[unsafe_offset=page]
        ref bucket = self.pages[unsafe_offset=self._bucket_of(entry.digest)]
        entry.bucket = bucket.head
        bucket.head = link_to(page)

    @always_inline
    def _leave_bucket(mut self, page: Int):
        ref entry = self.pages[unsafe_offset=page]
        ref bucket = self.pages[unsafe_offset=self._bucket_of(entry.digest)]
        if bucket.head == link_to(page):
            bucket.head = entry.bucket
            return
        var before = linked(bucket.head)
        while self.pages[unsafe_offset=before].bucket != link_to(page):
            before = linked(self.pages[unsafe_offset=before].bucket)
        self.pages[unsafe_offset=before].bucket = entry.bucket

    @always_inline
    def _adopt(mut self, page: Int, parent: UInt32):
        """Puts a page in front of the children of a parent."""
        ref entry = self.pages[unsafe_offset=page]
        var newest = self.first_child(parent)
        entry.parent = parent
        entry.elder = newest
        entry.younger = NO_LINK
        if newest != NO_LINK:
            self.pages[unsafe_offset=linked(newest)].younger = link_to(page)
        self._set_first_child(parent, link_to(page))

    @always_inline
    def _disown(mut self, page: Int):
        """Takes a page out of the children of its parent, if it has one."""
        var entry = self.pages[unsafe_offset=page]
        if entry.parent == NO_LINK:
            return
        if entry.elder != NO_LINK:
            self.pages[
                unsafe_offset=linked(entry.elder)
            ].younger = entry.younger
        if entry.younger != NO_LINK:
            self.pages[unsafe_offset=linked(entry.younger)].elder = entry.elder
        else:
            self._set_first_child(entry.parent, entry.elder)

    @always_inline
    def _set_first_child(mut self, parent: UInt32, child: UInt32):
        if (parent & ROOT) != 0:
            var namespace = Int(parent ^ ROOT)
            self.namespaces.values[unsafe_offset=namespace].child = child
        else:
            self.pages[unsafe_offset=linked(parent)].child = child

"""What was evicted lately, to say why a prefix was missed."""

from std.sys.intrinsics import prefetch

from .digest import Digest
from .memory import Ptr, release_memory, zeroed

comptime GHOSTS = 65536
"""Evictions that are remembered at most; a newer one may take a place."""


struct Ghost(TrivialRegisterPassable):
    """One eviction; all zeros is none."""

    var digest: Digest
    """Digest of the page that was evicted."""
    var when: Float64
    """The clock at that time."""
    var is_set: Bool
    """Whether this is an eviction at all."""


struct Ghosts(Movable):
    """Evictions under their digests."""

    var _places: Ptr[Ghost]

    def __init__(out self):
        """Starts with none; takes no memory before the first one."""
        self._places = zeroed[Ghost](GHOSTS)

    def __deinit__(deinit self):
        """Gives the memory back."""
        release_memory(self._places)

    def add(mut self, digest: Digest, when: Float64):
        """Remembers an eviction.

        Args:
            digest: Digest of the page.
            when: The clock.
        """
        ref place = self._places[unsafe_offset=_place(digest)]
        place.digest = digest
        place.when = when
        place.is_set = True

    def fetch_ahead(self, digest: Digest):
        """Brings near where an eviction will be remembered.

        Args:
            digest: Digest of the page.
        """
        var place = self._places.unsafe_offset(_place(digest))
        prefetch(place.unsafe_bitcast[UInt8]())

    def find(self, digest: Digest) -> Float64:
        """Returns when a page was evicted last.

        Args:
            digest: Digest of the page.

        Returns:
            The clock at that time, or -1 if that is not known.
        """
        ref place = self._places[unsafe_offset=_place(digest)]
        if place.is_set and place.digest == digest:
            return place.when
        return -1


def _place(digest: Digest) -> Int:
    return Int(digest.mixed() >> 48)

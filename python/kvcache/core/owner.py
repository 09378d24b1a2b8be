"""The one thread that may change a core."""

from threading import get_ident

from kvcache.errors import WrongThreadError


class Owner:
    """The first thread that asks owns; no other one may.

    Python and the Mojo core share memory that a call is written into, so two
    threads' calls must not mix. Counts may be read from anywhere.
    """

    __slots__ = ("_thread",)

    def __init__(self) -> None:
        """Starts without an owner."""
        self._thread = 0

    def check(self) -> None:
        """Verifies that the calling thread owns, or makes it the owner.

        Raises:
            WrongThreadError: If another thread owns.
        """
        thread = get_ident()
        if thread == self._thread:
            return
        if self._thread:
            raise WrongThreadError(
                f"wanted calls of thread {self._thread}, which made the first "
                f"change, got one of thread {thread}"
            )
        self._thread = thread

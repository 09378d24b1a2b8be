"""What can go wrong, each also the builtin that callers already catch."""


class KVCacheError(Exception):
    """Every error that kvcache raises on purpose."""


class InsufficientPagesError(KVCacheError, RuntimeError):
    """More pages were wanted than can be handed out.

    Args:
        wanted: How many pages were wanted.
        free: How many can be handed out.
    """

    wanted: int
    """How many pages were wanted."""
    free: int
    """How many pages could have been handed out."""

    _template = "wanted {wanted} pages, {free} free"

    def __init__(self, *, wanted: int, free: int) -> None:
        """Makes an error that names both counts."""
        super().__init__(self._template.format(wanted=wanted, free=free))
        self.wanted = wanted
        self.free = free

    def __reduce__(self) -> tuple[object, ...]:
        """Lets the error cross a process boundary with its counts."""
        return _with_counts, (type(self), self.wanted, self.free)


class RequestTooLargeError(InsufficientPagesError):
    """One request wants more pages than there are; waiting does not help."""

    _template = "wanted {wanted} pages for one request, the pool has {free}"


def _with_counts(
    kind: type[InsufficientPagesError], wanted: int, free: int
) -> InsufficientPagesError:
    return kind(wanted=wanted, free=free)


InsufficientBlocksError = InsufficientPagesError
"""The name that MAX gives to `InsufficientPagesError`."""


class InsufficientMemoryError(KVCacheError, RuntimeError):
    """The memory budget does not hold a single page."""


class MemoryBudgetError(InsufficientMemoryError, ValueError):
    """The memory budget does not hold what one sequence needs."""


class DocumentError(KVCacheError, ValueError):
    """A document that is malformed, foreign or of another version."""


class SequenceTooLongError(KVCacheError, RuntimeError):
    """A request would grow past the longest sequence that was allowed."""


class InvalidParamsError(KVCacheError, ValueError):
    """Parameters that contradict each other or are out of range."""


class NotOfferedError(KVCacheError, ValueError):
    """A setting that this version of kvcache does not offer yet."""


class ClaimError(KVCacheError, ValueError):
    """A request that cannot be claimed: it is already, or none is left."""


class UnknownRequestError(KVCacheError, KeyError, ValueError):
    """A request that was never claimed, or that was already released."""

    def __str__(self) -> str:
        """Returns the message, which `KeyError` would put in quotes."""
        return str(self.args[0]) if self.args else ""


class UnknownReplicaError(KVCacheError, IndexError):
    """A replica index out of range."""


class PinLimitError(KVCacheError, RuntimeError):
    """More pages or prefixes were to be pinned than may be."""


class UnknownPinError(KVCacheError, KeyError):
    """A pin that was let go, or that another manager gave."""

    def __str__(self) -> str:
        """Returns the message, which `KeyError` would put in quotes."""
        return str(self.args[0]) if self.args else ""


class RequestStateError(KVCacheError, ValueError):
    """A request whose tokens do not fit what the cache holds of it."""


class RetentionError(KVCacheError, ValueError):
    """A retention that is out of range or contradicts itself."""


class WrongThreadError(KVCacheError, RuntimeError):
    """A call from another thread than the one that made the first change."""


class PageStateError(KVCacheError, ValueError):
    """A page that is out of range, not held, or held where it may not be."""


class MissingPackageError(KVCacheError, ImportError):
    """A package that comes with an extra, and is not installed."""


class ResetNotDeliveredError(KVCacheError, TimeoutError):
    """A reset request that not every manager took in time."""


class SlotRangeError(KVCacheError, IndexError):
    """A slot, request, position or layer of a token pool that is not there."""


class SlotStateError(KVCacheError, ValueError):
    """A slot or request that is free, where one that is held was wanted."""


class TensorMismatchError(KVCacheError, RuntimeError):
    """A tensor whose shape, dtype or device does not fit the pool's."""


class DriverError(KVCacheError, RuntimeError):
    """A call of a GPU's driver failed."""


class DeviceNotAvailableError(KVCacheError, RuntimeError):
    """A device that torch does not have here."""

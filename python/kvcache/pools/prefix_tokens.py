"""A key's whole pages, as the core reads them."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kvcache.errors import RequestStateError
from kvcache.pools.radix_key import RadixKey

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class PrefixTokens:
    """Token ids of whole pages, and one more.

    The core never matches a sequence's last token, since it is computed. The
    one at the end lets all that come before it match; it is never compared.
    """

    ids: npt.NDArray[np.int64] = field(repr=False)
    """The ids and one more, `[length + 1]`."""
    extra_key: str | None = field(repr=False)

    @property
    def length(self) -> int:
        """Tokens, without the one at the end."""
        return len(self.ids) - 1

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """The token ids, `[length]`."""
        return self.ids[:-1]

    @property
    def namespace(self) -> bytes:
        """The core's name of the namespace; no key's is that of no key."""
        if self.extra_key is None:
            return b""
        return b"extra_key:" + self.extra_key.encode("utf-8", "surrogatepass")

    def first(self, length: int) -> "PrefixTokens":
        """Returns the beginning, `length` tokens of it."""
        return PrefixTokens(self.ids[: length + 1], self.extra_key)


NO_TOKENS = PrefixTokens(np.zeros(1, np.int64), None)
"""What the root stands for."""


def whole_pages(key: RadixKey, page_size: int) -> PrefixTokens:
    """Returns a key's whole pages.

    Raises:
        RequestStateError: If the tokens are not a row of integers of 32 bits,
            or the namespace is no string.
    """
    if not isinstance(key.extra_key, str | None):
        raise RequestStateError(
            f"wanted a string as extra_key, got {type(key.extra_key).__name__}"
        )
    length = len(key) // page_size * page_size
    ids = np.zeros(length + 1, np.int64)
    if len(key):
        ids[:length] = _checked(key)[:length]
    return PrefixTokens(ids, key.extra_key)


def _checked(key: RadixKey) -> npt.NDArray[np.int64]:
    try:
        ids = np.asarray(key.token_ids)
    except ValueError as error:
        raise RequestStateError("wanted a row of token ids") from error
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise RequestStateError(
            f"wanted a row of integers as token ids, got {ids.dtype} of shape "
            f"{ids.shape}"
        )
    if ids.min() < _INT32.min or ids.max() > _INT32.max:
        raise RequestStateError("wanted token ids that fit 32 bits")
    return ids.astype(np.int64, copy=False)

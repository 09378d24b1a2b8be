"""Hashes of token ids that are the same in every process."""

import hashlib
from collections.abc import Iterable, Iterator

_SIGN = 1 << 63


def hash_token_ids(
    token_ids: Iterable[int | tuple[int, ...]], prior_hash: str | None = None
) -> str:
    """Returns the SHA-256 of a page's token ids, as 64 hexadecimal digits.

    Hashed are the bytes of the prior hash and the ids, 4 bytes each, unsigned,
    lowest byte first; those of a tuple one after the other.

    Args:
        token_ids: The ids of one page.
        prior_hash: The hash of the page before it; none for the first.

    Raises:
        OverflowError: If an id is not from 0 to 2**32 - 1.
        ValueError: If `prior_hash` is not hexadecimal.
    """
    content = bytes.fromhex(prior_hash) if prior_hash else b""
    ids = b"".join(int(i).to_bytes(4, "little") for i in _flat(token_ids))
    return hashlib.sha256(content + ids).hexdigest()


def hash_to_int64(hex_str: str) -> int:
    """Returns a hash's first 16 hexadecimal digits as a signed integer."""
    value = int(hex_str[:16], 16)
    return value - 2 * _SIGN if value >= _SIGN else value


def hash_bytes(data: bytes) -> int:
    """Returns 64 bits of the SHA-256 of some bytes, unsigned."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def chain_hashes(token_ids: Iterable[int], page_size: int) -> list[str]:
    """Returns the hash of each whole page of a prefix."""
    ids = list(token_ids)
    hashes: list[str] = []
    for end in range(page_size, len(ids) + 1, page_size):
        prior = hashes[-1] if hashes else None
        hashes.append(hash_token_ids(ids[end - page_size : end], prior))
    return hashes


def _flat(token_ids: Iterable[int | tuple[int, ...]]) -> Iterator[int]:
    for token in token_ids:
        if isinstance(token, tuple):
            yield from token
        else:
            yield token

"""Digests that find a cached page; they never decide that it is the right one.

A digest of a page covers the digest before it, so it stands for the whole
sequence up to the page's end and for the namespace that the sequence began in.
"""

import functools
import hashlib
import secrets
from collections.abc import Callable
from typing import TypeAlias

Digest: TypeAlias = Callable[[bytes, bytes], bytes]
"""Digest of what precedes a page, and of the page's bytes, to its digest."""

_DOMAIN = b"kvcache.prefix.1"


@functools.lru_cache(maxsize=1024)
def namespace(*, cache_salt: str | None, model_name: str) -> bytes:
    """Returns the root that equal sequences must share to share pages.

    Each field carries its name and its length, so that no two combinations of
    fields give the same bytes.

    Args:
        cache_salt: Separates tenants; None differs from the empty salt.
        model_name: Model and adapter.
    """
    fields = [(b"model", model_name.encode())]
    if cache_salt is not None:
        fields.append((b"salt", cache_salt.encode()))
    return _DOMAIN + b"".join(
        part for field in fields for part in map(_prefixed, field)
    )


def keyed_digest() -> Digest:
    """Returns a digest whose random key lives and dies with it.

    Nobody outside can aim for equal digests; none of them may leave the
    process. 16 bytes of keyed BLAKE2b.

    References:
        RFC 7693, "The BLAKE2 Cryptographic Hash and MAC".
    """
    key = secrets.token_bytes(32)

    def digest(parent: bytes, content: bytes) -> bytes:
        state = hashlib.blake2b(
            _prefixed(parent), digest_size=16, key=key, person=_DOMAIN
        )
        state.update(content)
        return state.digest()

    return digest


def sha256_digest(parent: bytes, content: bytes) -> bytes:
    """Returns a digest that is the same in every process, of 32 bytes.

    References:
        FIPS 180-4, "Secure Hash Standard".
    """
    return hashlib.sha256(_DOMAIN + _prefixed(parent) + content).digest()


def _prefixed(field: bytes) -> bytes:
    return len(field).to_bytes(8, "little") + field

"""What a reset request is on the wire: ten bytes, always the same ones."""

import struct

_MAGIC = b"kvcache\0"
_VERSION = 1
_RESET_PREFIX_CACHE = 1

MAX_MESSAGE_BYTES = 64
"""Longer messages are cut off before they are read."""

RESET_REQUEST = struct.pack(">8sBB", _MAGIC, _VERSION, _RESET_PREFIX_CACHE)
"""Magic, version, operation. Anything else means nothing."""

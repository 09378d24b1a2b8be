"""Asking every manager of a machine to forget its cached prefixes."""

from kvcache.resets.inbox import ResetInbox
from kvcache.resets.sending import request_prefix_cache_reset

__all__ = ["ResetInbox", "request_prefix_cache_reset"]

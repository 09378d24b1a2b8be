"""The slots that a caller gives for a key, as the cache keeps them."""

import numpy as np
import torch

from kvcache.errors import PageStateError, RequestStateError
from kvcache.pools.cached_pages import Slots
from kvcache.pools.prefix_tokens import PrefixTokens

_INT32 = np.iinfo(np.int32)


def slots_of(
    value: torch.Tensor | None,
    prefix: PrefixTokens,
    *,
    num_tokens: int,
    page_size: int,
) -> Slots:
    """Returns the slots of a key's whole pages.

    Args:
        value: A slot for each token, integers `[num_tokens]`; None for the
            token ids.
        prefix: The key's whole pages.
        num_tokens: Tokens of the key.
        page_size: Tokens per page.

    Returns:
        A copy, `[num_pages, page_size]`.

    Raises:
        RequestStateError: If it is not one integer for each token.
        PageStateError: If a slot is not from 0 to 2**31 - 1.
    """
    if value is None:
        return prefix.tokens.astype(np.int32).reshape(-1, page_size)
    slots = np.asarray(torch.as_tensor(value).detach().cpu())
    if slots.shape != (num_tokens,) or slots.dtype.kind not in "iu":
        raise RequestStateError(
            f"wanted a slot for each of {num_tokens} tokens, got {slots.dtype} "
            f"of shape {slots.shape}"
        )
    if num_tokens and (slots.min() < 0 or slots.max() > _INT32.max):
        raise PageStateError(
            f"wanted slots from 0 to {_INT32.max}, got {slots.min()} to "
            f"{slots.max()}"
        )
    whole = slots[: prefix.length].astype(np.int32)
    return whole.reshape(-1, page_size)


def check_runs(slots: Slots, unit: int) -> None:
    """Verifies that slots are whole pages of a pool, each in order.

    Args:
        slots: The slots, `[num_pages, page_size]`.
        unit: Slots of a page of the pool.

    Raises:
        PageStateError: If they are not.
    """
    pages = slots.reshape(-1, unit)
    is_whole = (pages[:, 0] % unit == 0) & (np.diff(pages) == 1).all(axis=1)
    if not is_whole.all():
        wrong = pages[~is_whole][0]
        raise PageStateError(
            f"wanted whole pages of {unit} slots of the pool, got slots "
            f"{wrong[0]} to {wrong[-1]}"
        )

"""Our pools, as contexts see them."""

from dataclasses import dataclass
from typing import Any, cast

from kvcache.compiler.creating import positive
from kvcache.errors import InvalidParamsError

LARGEST_BLOCK = 64
"""Tokens of a block where nobody says how many; a page has them at least."""


@dataclass(frozen=True, slots=True)
class PoolParent:
    """A pool of one device; see `protocols.IndexerParent`."""

    page_size: int
    """Tokens per page."""
    block_size: int
    """Tokens per block."""
    num_pages: int
    """Pages, counted for each key-value head of its own."""
    head_num: int
    """Key-value heads."""
    head_dim: int
    """Elements per head."""
    group_size: int = 1
    """Query heads that share a key-value head."""


def parent_of(
    pool: Any,
    *,
    block_size: int | None = None,
    group_size: int = 1,
    page_size: int | None = None,
    num_pages: int | None = None,
) -> PoolParent:
    """Describes a pool of this package, as one device of a replica has it.

    The page that stands for no page counts too: its rows are in the pool.

    Args:
        pool: A `PagedKVCacheManager`, `KVCacheParams` or a
            `kvcache.pools.KVPool`.
        block_size: Tokens per block; up to 64 and a page if None.
        group_size: Query heads that share a key-value head.
        page_size: Tokens per page, where the pool does not say.
        num_pages: Pages that can be handed out, where the pool does not say.

    Raises:
        InvalidParamsError: If the pool is none of these, nobody says a size,
            or keys and values have several shapes, or are one latent.
        AssertionError: If a size is no positive int.
    """
    sizes = _sizes(pool, page_size, num_pages)
    tokens = positive("page_size", sizes["page_size"])
    pages = positive("num_pages", sizes["num_pages"])
    heads = positive("head_num", sizes["head_num"])
    block = min(tokens, LARGEST_BLOCK) if block_size is None else block_size
    return PoolParent(
        page_size=tokens,
        block_size=positive("block_size", block),
        num_pages=(pages + 1) * heads,
        head_num=heads,
        head_dim=positive("head_dim", sizes["head_dim"]),
        group_size=positive("group_size", group_size),
    )


def _sizes(
    pool: Any, page_size: int | None, num_pages: int | None
) -> dict[str, int]:
    if hasattr(pool, "k_buffer"):
        found = _sizes_of_slots(pool, page_size)
    elif hasattr(pool, "params"):
        pages = pool.total_num_pages // pool.num_replicas
        found = _sizes_of_params(pool.params) | {
            "page_size": pool.page_size,
            "num_pages": pages,
        }
    elif hasattr(pool, "n_kv_heads_per_device"):
        found = _sizes_of_params(pool)
    else:
        raise InvalidParamsError(
            "wanted a PagedKVCacheManager, KVCacheParams or a KVPool, got "
            f"{type(pool).__name__}"
        )
    told = {"page_size": page_size, "num_pages": num_pages}
    for name, size in told.items():
        if found.get(name) is None:
            found[name] = size
        if found[name] is None:
            raise InvalidParamsError(f"wanted {name}, which nobody says")
        if size not in {None, found[name]}:
            raise InvalidParamsError(
                f"wanted the pool's {name} {found[name]}, got {size}"
            )
    return cast("dict[str, int]", found)


def _sizes_of_params(params: Any) -> dict[str, int | None]:
    if params.is_mla:
        raise InvalidParamsError(
            "wanted a pool of keys and values, got one of latents"
        )
    return {
        "page_size": params.page_size,
        "head_num": params.n_kv_heads_per_device,
        "head_dim": params.head_dim,
    }


def _sizes_of_slots(pool: Any, page_size: int | None) -> dict[str, int | None]:
    """Those of a pool of slots; its slot 0 begins the page of no page."""
    keys = (pool.k_head_num, pool.k_head_dim)
    values = (pool.v_head_num, pool.v_head_dim)
    if keys != values:
        raise InvalidParamsError(
            f"wanted keys and values of one shape, got {keys} and {values}"
        )
    found: dict[str, int | None] = {"head_num": keys[0], "head_dim": keys[1]}
    if page_size is not None:
        num_pages, rest = divmod(len(pool.k_buffer[0]), page_size)
        if rest or num_pages < 2:
            raise InvalidParamsError(
                f"wanted a page_size that the pool was made with, got "
                f"{page_size}"
            )
        found["num_pages"] = num_pages - 1
    return found

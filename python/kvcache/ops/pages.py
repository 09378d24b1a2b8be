"""Moves and turns whole pages, and parts of them."""

from max.dtype import DType
from max.graph import BufferValue, TensorValue, ops

from kvcache.cache_inputs import static_dim
from kvcache.cache_types import DTYPES
from kvcache.ops.checks import check_rows_of


def copy_pages(kv_blocks: BufferValue, pairs: TensorValue) -> None:
    """Copies whole pages within the pool, all layers at once.

    No page may be written twice, or be both read and written.

    Args:
        kv_blocks: The pool, or the pool of its scales: each has its own call.
        pairs: Source and target pages, uint32 `[num_pairs, 2]`.

    Raises:
        ValueError: If a shape or dtype does not fit.
    """
    check_rows_of("pairs", pairs, DType.uint32, [2])
    plane = (static_dim(kv_blocks, axis) for axis in (3, 4, 5))
    page_size, num_kv_heads, head_dim = plane
    ops.inplace_custom(
        "kvcache.copy_pages",
        device=kv_blocks.device,
        values=[kv_blocks, pairs],
        parameters={"plane_stride": page_size * num_kv_heads * head_dim},
    )


def transfer_pages(
    pages: BufferValue,
    host_pages: BufferValue,
    pairs: TensorValue,
    *,
    to_host: bool,
) -> None:
    """Copies whole pages between a GPU and pinned memory of the host.

    One kernel reads or writes the host's memory itself, so that many small
    pages take as long as their bytes do. No page may be written twice.

    Args:
        pages: Pages of the GPU as bytes, uint8 `[num_pages, page_bytes]`; a
            page has a multiple of 16 bytes.
        host_pages: Pages of the host, uint8 `[num_host_pages, page_bytes]`.
        pairs: Source and target pages, uint32 `[num_pairs, 2]`, on the GPU.
        to_host: Whether the host's pages are the targets.

    Raises:
        ValueError: If a shape, dtype or device does not fit.
    """
    check_rows_of("pairs", pairs, DType.uint32, [2])
    for name, value in {"pages": pages, "host_pages": host_pages}.items():
        if value.dtype != DType.uint8 or len(value.shape) != 2:
            raise ValueError(
                f"{name} must be uint8 of 2 axes, got {value.dtype.name}"
                f" {list(value.shape)}"
            )
    if pages.shape[1] != host_pages.shape[1]:
        raise ValueError(
            f"wanted host_pages of {pages.shape[1]} bytes each, got"
            f" {host_pages.shape[1]}"
        )
    if pages.device.is_cpu() or not host_pages.device.is_cpu():
        raise ValueError(
            "wanted pages on a GPU and host_pages on the CPU, got"
            f" {pages.device} and {host_pages.device}"
        )
    ops.inplace_custom(
        "kvcache.transfer_pages",
        device=pages.device,
        values=[pages, host_pages, pairs],
        parameters={"to_host": to_host},
    )


def rope_shift(
    kv_blocks: BufferValue,
    freqs: TensorValue,
    shifts: TensorValue,
    *,
    interleaved: bool = False,
    begin: int = 0,
) -> None:
    """Turns cached keys on to new positions, in place and in all layers.

    When tokens leave a context, those behind them move up: `copy_pages` and the
    lookup table move pages, this moves the positions that keys were rotated
    for. It works on pages, not on sequences: a page that sequences share turns
    once, and for all of them. No slot may be in two shifts of one call.

    Every call rounds to the element type, and the errors add up: in bfloat16
    one shift errs by 0.15 % of an element's mean size, 256 by 13 %. So shift
    rarely and far, by half a context and not token by token.

    Args:
        kv_blocks: The pool.
        freqs: Cosines, then sines, of the angles to turn by, float32
            `[num_rows, rope_dim]`: the angles of a distance in positions, with
            their sign.
        shifts: The page, its first slot, one behind its last slot and the row
            of `freqs`, uint32 `[num_shifts, 4]`.
        interleaved: Whether a pair are neighbours (GGUF) or half of `rope_dim`
            apart (Hugging Face), as in `rope_store`.
        begin: The first of the `rope_dim` elements of a head that turn; for
            latents, where their rotated part begins, behind the value.

    Raises:
        ValueError: If a shape or dtype does not fit, or the pool is quantised.
    """
    if kv_blocks.dtype not in DTYPES:
        raise ValueError(f"wanted plain pages, got {kv_blocks.dtype.name}")
    sizes = [static_dim(kv_blocks, axis) for axis in (3, 4, 5)]
    page_size, num_kv_heads, head_dim = sizes
    rope_dim = static_dim(freqs, 1)
    if begin < 0 or rope_dim not in range(2, head_dim - begin + 1, 2):
        raise ValueError(
            "rope_dim must be even and, from begin on, in the head"
            f" ({head_dim}), got {rope_dim} from {begin} on"
        )
    if static_dim(kv_blocks, 1) == 1 and begin == 0:
        raise ValueError(
            "begin must be where the rotated part of a latent begins, got 0"
        )
    check_rows_of("freqs", freqs, DType.float32, [rope_dim])
    check_rows_of("shifts", shifts, DType.uint32, [4])
    ops.inplace_custom(
        "kvcache.rope_shift",
        device=kv_blocks.device,
        values=[kv_blocks, freqs, shifts],
        parameters={
            "page_size": page_size,
            "num_kv_heads": num_kv_heads,
            "head_dim": head_dim,
            "rope_begin": begin,
            "rope_dim": rope_dim,
            "interleaved": interleaved,
        },
    )

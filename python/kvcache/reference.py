"""What each operation means, in NumPy, one token at a time.

Slow on purpose. Every kernel is tested against this module; nothing but tests
and benchmarks imports it. The pool `kv_blocks` is
`[num_pages + 1, 2, num_layers, page_size, num_kv_heads, head_dim]`, and of
latents `[num_pages + 1, 1, num_layers, page_size, 1, head_dim]`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]
Indices = npt.NDArray[np.uint32]


def store(
    kv_blocks: Floats,
    keys: Floats,  # [total_tokens, num_kv_heads, head_dim]
    values: Floats,  # [total_tokens, num_kv_heads, head_dim]
    input_row_offsets: Indices,  # [batch_size + 1]
    cache_lengths: Indices,  # [batch_size], before this call
    lookup_table: Indices,  # [batch_size, num_columns]
    *,
    layer: int,
) -> None:
    """Writes each sequence's new tokens after its cached tokens, in place."""
    page_size = kv_blocks.shape[3]
    for seq, cached in enumerate(cache_lengths.tolist()):
        begin, end = input_row_offsets[seq : seq + 2].tolist()
        for row in range(begin, end):
            column, slot = divmod(cached + row - begin, page_size)
            page = lookup_table[seq, column]
            kv_blocks[page, 0, layer, slot] = keys[row]
            kv_blocks[page, 1, layer, slot] = values[row]


def store_latents(
    kv_blocks: Floats,
    latents: Floats,  # [total_tokens, head_dim]
    input_row_offsets: Indices,  # [batch_size + 1]
    cache_lengths: Indices,  # [batch_size], before this call
    lookup_table: Indices,  # [batch_size, num_columns]
    *,
    layer: int,
) -> None:
    """Writes each sequence's new latents after its cached ones, in place."""
    page_size = kv_blocks.shape[3]
    for seq, cached in enumerate(cache_lengths.tolist()):
        begin, end = input_row_offsets[seq : seq + 2].tolist()
        for row in range(begin, end):
            column, slot = divmod(cached + row - begin, page_size)
            kv_blocks[lookup_table[seq, column], 0, layer, slot] = latents[row]


def rope(
    heads: Floats,  # [num_heads, head_dim]
    freqs: Floats,  # [rope_dim], cosines then sines
    *,
    interleaved: bool,
) -> Floats:
    """Returns the heads turned by one position's angles."""
    half = len(freqs) // 2
    cosine, sine = freqs[:half], freqs[half:]
    step, apart = (2, 1) if interleaved else (1, half)
    first = np.s_[:, 0 : step * half : step]
    second = np.s_[:, apart : apart + step * half : step]
    x = heads[first].astype(np.float32)
    y = heads[second].astype(np.float32)
    turned = heads.copy()
    turned[first] = (x * cosine - y * sine).astype(heads.dtype)
    turned[second] = (y * cosine + x * sine).astype(heads.dtype)
    return turned


def rope_rows(
    qkv: Floats,  # [total_tokens, (num_q_heads + 2 num_kv_heads) head_dim]
    freqs: Floats,  # [num_positions, rope_dim], cosines then sines
    input_row_offsets: Indices,  # [batch_size + 1]
    cache_lengths: Indices,  # [batch_size], before this call
    *,
    num_kv_heads: int,
    head_dim: int,
    interleaved: bool = False,
) -> tuple[Floats, Floats, Floats]:
    """Returns turned queries and keys, and values as they are."""
    num_heads = qkv.shape[1] // head_dim
    heads = qkv.reshape(-1, num_heads, head_dim).copy()
    for seq, cached in enumerate(cache_lengths.tolist()):
        begin, end = input_row_offsets[seq : seq + 2].tolist()
        for row in range(begin, end):
            heads[row, :-num_kv_heads] = rope(
                heads[row, :-num_kv_heads],
                freqs[cached + row - begin],
                interleaved=interleaved,
            )
    queries, keys, values = np.split(
        heads, [-2 * num_kv_heads, -num_kv_heads], axis=1
    )
    return queries, keys, values


def rope_store(
    kv_blocks: Floats,
    qkv: Floats,  # [total_tokens, (num_q_heads + 2 num_kv_heads) head_dim]
    freqs: Floats,  # [num_positions, rope_dim], cosines then sines
    input_row_offsets: Indices,  # [batch_size + 1]
    cache_lengths: Indices,  # [batch_size], before this call
    lookup_table: Indices,  # [batch_size, num_columns]
    *,
    layer: int,
    interleaved: bool = False,
) -> Floats:
    """Turns queries and keys, stores keys and values; returns the queries."""
    num_kv_heads, head_dim = kv_blocks.shape[4:]
    queries, keys, values = rope_rows(
        qkv,
        freqs,
        input_row_offsets,
        cache_lengths,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        interleaved=interleaved,
    )
    store(
        kv_blocks,
        keys,
        values,
        input_row_offsets,
        cache_lengths,
        lookup_table,
        layer=layer,
    )
    return queries


def rope_shift(
    kv_blocks: Floats,
    freqs: Floats,  # [num_rows, rope_dim], cosines then sines
    shifts: Indices,  # [num_shifts, 4]: page, begin, end, row of freqs
    *,
    interleaved: bool = False,
    begin: int = 0,
) -> None:
    """Turns keys of all layers once more, in place."""
    for page, first, last, row in shifts.tolist():
        for layer, slot in np.ndindex(kv_blocks.shape[2], last - first):
            keys = kv_blocks[page, 0, layer, first + slot, :, begin:]
            keys[:] = rope(keys, freqs[row], interleaved=interleaved)


def gather(
    kv_blocks: Floats,
    keys: Floats,  # [context_tokens, num_kv_heads, head_dim]
    values: Floats,  # [context_tokens, num_kv_heads, head_dim]
    context_row_offsets: Indices,  # [batch_size + 1]
    lookup_table: Indices,  # [batch_size, num_columns]
    *,
    layer: int,
) -> None:
    """Copies each sequence's first tokens out of its pages, in place."""
    page_size = kv_blocks.shape[3]
    for seq in range(len(lookup_table)):
        begin, end = context_row_offsets[seq : seq + 2].tolist()
        for row in range(begin, end):
            column, slot = divmod(row - begin, page_size)
            page = lookup_table[seq, column]
            keys[row] = kv_blocks[page, 0, layer, slot]
            values[row] = kv_blocks[page, 1, layer, slot]


def gather_latents(
    kv_blocks: Floats,
    latents: Floats,  # [context_tokens, head_dim]
    context_row_offsets: Indices,  # [batch_size + 1]
    lookup_table: Indices,  # [batch_size, num_columns]
    *,
    layer: int,
) -> None:
    """Copies each sequence's first latents out of its pages, in place."""
    page_size = kv_blocks.shape[3]
    for seq in range(len(lookup_table)):
        begin, end = context_row_offsets[seq : seq + 2].tolist()
        for row in range(begin, end):
            column, slot = divmod(row - begin, page_size)
            latents[row] = kv_blocks[lookup_table[seq, column], 0, layer, slot]


def copy_pages(
    kv_blocks: Floats,
    pairs: Indices,  # [num_pairs, 2], source then target
) -> None:
    """Copies whole pages, all layers at once, in place."""
    for source, target in pairs.tolist():
        kv_blocks[target] = kv_blocks[source]


def attention(
    kv_blocks: Floats,
    queries: Floats,  # [total_tokens, num_q_heads, head_dim]
    input_row_offsets: Indices,  # [batch_size + 1]
    cache_lengths: Indices,  # [batch_size], before this step
    lookup_table: Indices,  # [batch_size, num_columns]
    *,
    layer: int,
    scale: float,
    window: int | None = None,
    sink_tokens: int = 0,
    sinks: Floats | None = None,  # [num_q_heads]
    softcap: float | None = None,
    value_dim: int | None = None,
) -> npt.NDArray[np.float64]:
    """Returns causal attention over pages that hold the new tokens too.

    With `value_dim`, pages hold latents: keys, whose first elements are values.
    """
    page_size, num_kv_heads, head_dim = kv_blocks.shape[3:]
    num_q_heads = queries.shape[1]
    output = np.empty((len(queries), num_q_heads, value_dim or head_dim))
    for seq, cached in enumerate(cache_lengths.tolist()):
        begin, end = input_row_offsets[seq : seq + 2].tolist()
        for row in range(begin, end):
            own = cached + row - begin
            places = [
                divmod(position, page_size)
                for position in range(own + 1)
                if window is None
                or position > own - window
                or position < sink_tokens
            ]
            pages = [lookup_table[seq, column] for column, _ in places]
            slots = [slot for _, slot in places]
            keys, values = (
                kv_blocks[pages, kv, layer, slots].astype(np.float64)
                for kv in (0, 0 if value_dim else 1)
            )
            groups = np.split(np.arange(num_q_heads), num_kv_heads)
            for head, group in enumerate(groups):
                query = queries[row, group].astype(np.float64)
                scores = query @ keys[:, head].T * scale
                output[row, group] = (
                    softmax(
                        scores,
                        None if sinks is None else sinks[group],
                        softcap=softcap,
                    )
                    @ values[:, head, :value_dim]
                )
    return output


def softmax(
    scores: npt.NDArray[np.float64],  # [num_heads, num_tokens]
    sinks: Floats | None,  # [num_heads]
    *,
    softcap: float | None,
) -> npt.NDArray[np.float64]:
    """Returns each token's share; a sink takes one too, and shows none."""
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    if sinks is None:
        sinks = np.full(len(scores), -np.inf)
    largest = np.maximum(scores.max(axis=1), sinks)
    weights = np.exp(scores - largest[:, None])
    total = weights.sum(axis=1) + np.exp(sinks - largest)
    shares: npt.NDArray[np.float64] = weights / total[:, None]
    return shares

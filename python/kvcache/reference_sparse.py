"""What choosing blocks means, and attending to them: NumPy, and slow.

Shapes and names are those of `kvcache.ops.sparse`. A sequence with `n` cached
tokens and one new one has `n // block_size + 1` blocks.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]
Indices = npt.NDArray[np.uint32]


def num_chosen(
    num_blocks: int,
    ratio: float,
    *,
    reserved_first: int,
    reserved_last: int,
    top_k: int,
) -> int:
    """Returns how many blocks a sequence attends to."""
    part = np.float32(num_blocks) * np.float32(ratio)
    least = top_k + reserved_first + reserved_last
    if np.isnan(part):
        return min(num_blocks, least)
    return min(num_blocks, max(least, int(np.clip(part, 0, num_blocks))))


def chosen(
    scores: Floats,  # [num_blocks], one sequence and head
    ratio: float,
    *,
    reserved_first: int,
    reserved_last: int,
    top_k: int,
) -> list[int]:
    """Returns the chosen blocks of one sequence and head, ascending."""
    num_blocks = len(scores)
    count = num_chosen(
        num_blocks,
        ratio,
        reserved_first=reserved_first,
        reserved_last=reserved_last,
        top_k=top_k,
    )
    if count == num_blocks:
        return list(range(num_blocks))
    behind = num_blocks - reserved_last
    kept = [*range(reserved_first), *range(behind, num_blocks)]
    known = np.where(np.isnan(scores), -np.inf, scores)
    ranked = sorted(
        range(reserved_first, behind), key=lambda block: (-known[block], block)
    )
    return sorted(kept + ranked[: count - len(kept)])


def choose_blocks(
    scores: Floats,  # [batch_size, num_kv_heads, width]
    input_row_offsets: Indices,  # [batch_size + 1]
    cache_lengths: Indices,  # [batch_size], before this step
    lookup_table: Indices,  # [batch_size, num_columns]
    ratios: Floats,  # [batch_size]
    *,
    page_size: int,
    block_size: int,
    reserved_first: int,
    reserved_last: int,
    top_k: int,
) -> tuple[list[list[list[int]]], Indices]:
    """Returns ids of the chosen blocks, and the tokens in them.

    The ids are a list of each sequence and head, empty for sequences that have
    not exactly one new token.
    """
    per_page = page_size // block_size
    lengths = np.zeros(len(cache_lengths), np.uint32)
    ids: list[list[list[int]]] = []
    for seq, cached in enumerate(cache_lengths.tolist()):
        ids.append([[] for _ in scores[seq]])
        begin, end = input_row_offsets[seq : seq + 2].tolist()
        if end - begin != 1:
            continue
        num_blocks = cached // block_size + 1
        for head, row in enumerate(scores[seq]):
            blocks = chosen(
                row[:num_blocks],
                ratios[seq],
                reserved_first=reserved_first,
                reserved_last=reserved_last,
                top_k=top_k,
            )
            for block in blocks:
                column, part = divmod(block, per_page)
                page = int(lookup_table[seq, column])
                ids[seq][head].append(page * per_page + part)
            whole = (len(blocks) - 1) * block_size
            lengths[seq] = whole + cached % block_size + 1
    return ids, lengths


def sparse_attention(
    kv_blocks: Floats,
    queries: Floats,  # [total_tokens, num_q_heads, head_dim]
    input_row_offsets: Indices,  # [batch_size + 1]
    cache_lengths: Indices,  # [batch_size], before this step
    lookup_table: Indices,  # [batch_size, num_columns]
    block_ids: list[list[list[int]]],  # of each sequence and head
    lengths: Indices,  # [batch_size]
    *,
    layer: int,
    scale: float,
    block_size: int,
    sinks: Floats | None = None,  # [num_q_heads]
    softcap: float | None = None,
) -> npt.NDArray[np.float64]:
    """Returns attention over chosen blocks; over all where there are none."""
    page_size, num_kv_heads, head_dim = kv_blocks.shape[3:]
    num_q_heads = queries.shape[1]
    output = np.empty((len(queries), num_q_heads, head_dim))
    groups = np.split(np.arange(num_q_heads), num_kv_heads)
    for seq, length in enumerate(lengths.tolist()):
        begin, end = input_row_offsets[seq : seq + 2].tolist()
        for row, head in np.ndindex(end - begin, num_kv_heads):
            if length:
                places = [
                    divmod(block * block_size + token, page_size)
                    for block in block_ids[seq][head]
                    for token in range(block_size)
                ][:length]
            else:
                places = [
                    (int(lookup_table[seq, position // page_size]), slot)
                    for position in range(cache_lengths[seq] + row + 1)
                    for slot in [position % page_size]
                ]
            pages, slots = np.array(places).T
            keys, values = (
                kv_blocks[pages, kv, layer, slots, head].astype(np.float64)
                for kv in (0, 1)
            )
            group = groups[head]
            query = queries[begin + row, group].astype(np.float64)
            scores = query @ keys.T * scale
            if softcap is not None:
                scores = softcap * np.tanh(scores / softcap)
            weights, total = _weights(
                scores, None if sinks is None else sinks[group]
            )
            output[begin + row, group] = weights @ values / total
    return output


def _weights(
    scores: Floats,  # [num_heads, num_tokens]
    sinks: Floats | None,  # [num_heads]
) -> tuple[Floats, Floats]:
    """Returns each token's weight, and what they add up to with the sinks."""
    if sinks is None:
        sinks = np.full(len(scores), -np.inf)
    largest = np.maximum(scores.max(axis=1), sinks)[:, None]
    weights = np.exp(scores - largest)
    return weights, weights.sum(axis=1)[:, None] + np.exp(
        sinks[:, None] - largest
    )

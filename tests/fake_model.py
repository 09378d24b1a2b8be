"""A model whose next token depends on every token before it.

It keeps its "keys and values" in pages, writes and reads them through the
lookup table alone, and so gives another token wherever a page is lost, shared
wrongly, overwritten or out of order. `straight_line` is what it must say.
"""

import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from kvcache.serve import GenerationRequest, SamplingParams
from kvcache.serve.sampling import token_seed

_POISON = -(2**40)


def next_token(
    tokens: Sequence[int], *, vocab_size: int, sampling: SamplingParams
) -> int:
    """Returns the token after `tokens`, from their bytes and the seed."""
    text = np.array(tokens, np.int64).tobytes()
    if not sampling.is_greedy:
        text += token_seed(sampling.seed, len(tokens)).to_bytes(8, "little")
    return zlib.crc32(text) % vocab_size


def straight_line(
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    vocab_size: int,
    stop_ids: Iterable[int] = (),
    sampling: SamplingParams | None = None,
) -> list[int]:
    """Returns what a request generates when nothing is cached or shared."""
    tokens, stop_ids = list(prompt), set(stop_ids)
    for _ in range(max_new_tokens):
        tokens.append(
            next_token(
                tokens,
                vocab_size=vocab_size,
                sampling=sampling or SamplingParams(),
            )
        )
        if tokens[-1] in stop_ids:
            break
    return tokens[len(prompt) :]


class FakeRunner:
    """A `StepRunner` over token ids in place of keys and values."""

    def __init__(
        self, *, num_pages: int, page_size: int, vocab_size: int
    ) -> None:
        self.slots = np.full((num_pages + 1, page_size), _POISON, np.int64)
        self.null_page = num_pages
        self.page_size = page_size
        self.vocab_size = vocab_size
        self.fed: list[list[int]] = []  # tokens per row, one list a run
        self.steps: list[int] = []

    def run(
        self,
        batch: Sequence[GenerationRequest],
        kv_inputs: Sequence[Iterable[object]],
        *,
        num_steps: int,
    ) -> npt.NDArray[np.int64]:
        _, lengths, table, max_lengths = kv_inputs[0]
        lengths = lengths.to_numpy().astype(np.int64)
        table = table.to_numpy()
        rows = [request.tokens.active.tolist() for request in batch]
        ends = lengths + [len(row) for row in rows]
        np.testing.assert_array_equal(
            max_lengths.to_numpy()[:, 1], ends.max() + np.arange(num_steps)
        )
        self.fed.append([len(row) for row in rows])
        self.steps.append(num_steps)
        outputs = []
        for _ in range(num_steps):
            self._store(rows, lengths, table)
            lengths = lengths + [len(row) for row in rows]
            read = map(self._read, table, lengths)
            tokens = [
                next_token(
                    past, vocab_size=self.vocab_size, sampling=request.sampling
                )
                for request, past in zip(batch, read, strict=True)
            ]
            outputs.append(tokens)
            rows = [[token] for token in tokens]
        return np.array(outputs, np.int64)

    def _store(
        self,
        rows: list[list[int]],
        lengths: npt.NDArray[np.int64],
        table: npt.NDArray[np.uint32],
    ) -> None:
        written = set()
        for row, length, pages in zip(rows, lengths, table, strict=True):
            for position, token in enumerate(row, start=int(length)):
                column, slot = divmod(position, self.page_size)
                page = int(pages[column])
                assert page != self.null_page, f"no page for {position}"
                assert (page, slot) not in written, "two rows, one slot"
                written.add((page, slot))
                self.slots[page, slot] = token

    def _read(
        self, pages: npt.NDArray[np.uint32], length: int
    ) -> npt.NDArray[np.int64]:
        num_columns = -(-int(length) // self.page_size)
        return self.slots[pages[:num_columns]].reshape(-1)[:length]

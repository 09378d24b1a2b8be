"""Feeds a model tokens that are known, and looks at what it expected."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from max.driver import Buffer, Device
from max.engine import Model

from kvcache import PagedKVCacheManager
from kvcache.model import LlamaConfig
from kvcache.request import Request
from kvcache.spec import KVCacheParams

CHUNK = 256
"""Prompt tokens of one step."""

Logs = npt.NDArray[np.float64]


class Teacher:
    """Rows of known tokens, each read with a ratio of its own.

    What comes before `start` is read in chunks and attended to densely, once
    for all rows that begin alike; every token from there on is a decode step.

    Args:
        config: The model's sizes.
        graph: The model's graph, with logits.
        params: Its cache.
        device: Where the graph runs.
        num_pages: Pages of the cache.
        rows: The most rows at a time.
    """

    def __init__(
        self,
        config: LlamaConfig,
        graph: Model,
        params: KVCacheParams,
        *,
        device: Device,
        num_pages: int,
        rows: int,
    ) -> None:
        """Makes the cache."""
        layers, page_size = config.num_layers, params.page_size
        assert page_size is not None, "the paged strategy has one"
        self._graph = graph
        self._device = device
        self._manager = PagedKVCacheManager(
            params,
            max_batch_size=rows,
            max_seq_len=config.max_seq_len,
            num_layers=layers,
            devices=[device],
            session=None,
            available_cache_memory=num_pages * params.bytes_per_page(layers),
            page_size=page_size,
        )

    def log_probabilities(
        self,
        rows: Sequence[tuple[Sequence[int], float]],
        *,
        start: int,
    ) -> tuple[Logs, npt.NDArray[np.bool_]]:
        """Returns how likely each row's tokens from `start + 1` on were.

        Args:
            rows: Tokens, equally many, and a ratio for each row.
            start: The first token that is decoded.

        Returns:
            Natural logarithms `[rows, steps]`, and whether each token was the
            likeliest.
        """
        requests = [Request(tokens[: start + 1]) for tokens, _ in rows]
        ratios = np.array([ratio for _, ratio in rows], np.float32)
        for index, request in enumerate(requests):
            self._manager.external_claim(request.request_id)
            self._read(request, ratios[index : index + 1])
        logs, hits = [], []
        for place in range(start + 1, len(rows[0][0])):
            truth = np.array([tokens[place] for tokens, _ in rows])
            logits = self._step(requests, ratios)
            logs.append(_log_softmax(logits, truth))
            hits.append(logits.argmax(axis=1) == truth)
            for request, token in zip(requests, truth.tolist(), strict=True):
                request.update(token)
            self._manager.step(requests)
        for request in requests:
            self._manager.release(request.request_id)
        return np.stack(logs, axis=1), np.stack(hits, axis=1)

    def _read(self, request: Request, ratios: npt.NDArray[np.float32]) -> None:
        """Reads a prompt up to its last token, which is left to decode."""
        assert self._manager.maybe_reserve(request, 1)
        while (left := request.tokens.active_length - 1) > 0:
            request.tokens.chunk(min(CHUNK, left))
            self._step([request], ratios)
            request.update(0)
            self._manager.step([request])

    def _step(
        self, requests: list[Request], ratios: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Runs the model once; returns logits `[batch, vocab]`."""
        for request in requests:
            assert self._manager.maybe_reserve(request, 1), "the pool is small"
        (inputs,) = self._manager.fetch(requests, 1)
        lengths = [request.tokens.active_length for request in requests]
        offsets = np.zeros(len(requests) + 1, np.uint32)
        np.cumsum(lengths, out=offsets[1:])
        tokens = np.concatenate([r.tokens.active for r in requests])
        _, logits = self._graph.execute(
            self._there(tokens.astype(np.int64)),
            self._there(offsets),
            *inputs,
            self._there(ratios),
        )
        result: npt.NDArray[np.float32] = logits.to_numpy()
        return result

    def _there(self, array: npt.NDArray[np.generic]) -> Buffer:
        return Buffer.from_numpy(array).to(self._device)


def _log_softmax(
    logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]
) -> Logs:
    """Returns the logarithm of each row's probability of its true token."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    total = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
    chosen: Logs = wide[np.arange(len(truth)), truth] - total
    return chosen

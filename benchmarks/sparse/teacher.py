"""Feeds a model tokens that are known, and looks at what it expected."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from max.driver import CPU, Buffer
from max.engine import InferenceSession

from kvcache import PagedKVCacheManager
from kvcache.compiler.mojo_backend import flow_ops
from kvcache.compiler.registry import make_flow
from kvcache.flow_ops import FlowOps
from kvcache.model import LlamaModel
from kvcache.request import Request
from kvcache.serve.compiled_llama import CompiledLlama, compile_together
from kvcache.serve.engine import cache_params

CHUNK = 256
"""Prompt tokens of one step."""

PAGE_SIZE = 64
"""Tokens per page."""

Logs = npt.NDArray[np.float64]


def compile_flows(
    model: LlamaModel, flows: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], CompiledLlama]:
    """Compiles a model's graphs for several flows, all in one module.

    Args:
        model: The model.
        flows: Names of flows, with their block sizes.
    """
    session = InferenceSession(devices=[CPU()])
    config = model.config
    compiled = {}
    for name, block_size in flows:
        flow = flow_ops(
            make_flow(name),
            block_size=block_size,
            head_dim=config.head_dim,
            group_size=config.num_q_heads // config.num_kv_heads,
            field_dtype="float32",
        )
        compiled[name, block_size] = CompiledLlama(
            model,
            cache_params(config, page_size=PAGE_SIZE, flow=flow),
            device=CPU(),
            session=session,
            flow=flow,
            return_logits=True,
        )
    compile_together([*compiled.values()])
    return compiled


class Teacher:
    """Rows of known tokens, each read with a ratio of its own.

    What comes before `start` is read in chunks and attended to densely, once
    for all rows that begin alike; every token from there on is a decode step.

    Args:
        model: The model.
        compiled: Its graphs, with logits.
        num_pages: Pages of the cache.
        rows: The most rows at a time.
    """

    def __init__(
        self,
        model: LlamaModel,
        compiled: CompiledLlama,
        *,
        num_pages: int,
        rows: int,
    ) -> None:
        """Makes the cache."""
        assert compiled.flow is not None, "made by compile_flows"
        flow: FlowOps = compiled.flow
        params = cache_params(model.config, page_size=PAGE_SIZE, flow=flow)
        layers = model.config.num_layers
        self._graph = compiled.greedy
        self._manager = PagedKVCacheManager(
            params,
            max_batch_size=rows,
            max_seq_len=model.config.max_seq_len,
            num_layers=layers,
            devices=[CPU()],
            session=None,
            available_cache_memory=num_pages * params.bytes_per_page(layers),
            page_size=PAGE_SIZE,
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
            Buffer.from_numpy(tokens.astype(np.int64)),
            Buffer.from_numpy(offsets),
            *inputs,
            Buffer.from_numpy(ratios),
        )
        result: npt.NDArray[np.float32] = logits.to_numpy()
        return result


def _log_softmax(
    logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]
) -> Logs:
    """Returns the logarithm of each row's probability of its true token."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    total = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
    chosen: Logs = wide[np.arange(len(truth)), truth] - total
    return chosen

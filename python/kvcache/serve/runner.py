"""A Llama model that computes its steps through the pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from max.driver import CPU, Accelerator, Buffer, Device, accelerator_count
from max.engine import InferenceSession

from kvcache.errors import KVCacheError
from kvcache.serve.compiled_llama import CompiledLlama
from kvcache.serve.request import GenerationRequest
from kvcache.serve.sampling import token_seed

if TYPE_CHECKING:
    from kvcache.manager import PagedKVCacheManager, RaggedKVCacheInputs


class DeviceError(KVCacheError, ValueError):
    """A device that is unknown, or that this machine does not have."""


def open_device(kind: str) -> Device:
    """Returns the processor, or the first accelerator.

    Args:
        kind: `cpu` or `gpu`.

    Raises:
        DeviceError: If it is neither, or there is no accelerator.
    """
    if kind == "cpu":
        return CPU()
    if kind != "gpu":
        raise DeviceError(f"wanted the device cpu or gpu, got {kind!r}")
    if accelerator_count() == 0:
        raise DeviceError("wanted a GPU that MAX can use, found none")
    return Accelerator()


def open_session(device: Device) -> InferenceSession:
    """Returns a session that compiles graphs for one device."""
    return InferenceSession(devices=[device])


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What one execution takes beside the cache; all on the device."""

    tokens: Buffer
    """The rows' tokens end to end, int64 `[total_tokens]`."""
    input_row_offsets: Buffer
    """Where each row starts among them, uint32 `[batch + 1]`."""


class LlamaRunner:
    """Runs a Llama model on one device.

    Between two steps of one fetch nothing comes to the host: the tokens of a
    step are fed to the next one on the device.

    Args:
        compiled: The graphs.
        manager: Holds the pages.
        ratio: The share of its blocks that a request's decode steps attend
            to, where the graphs choose blocks and the request says nothing.
    """

    def __init__(
        self,
        compiled: CompiledLlama,
        manager: "PagedKVCacheManager",
        *,
        ratio: float = 1.0,
    ) -> None:
        """Compiles what lies between two steps."""
        self._compiled = compiled
        self._manager = manager
        self._ratio = ratio
        self._warm_up()

    def run(
        self,
        batch: Sequence[GenerationRequest],
        kv_inputs: "list[RaggedKVCacheInputs]",
        *,
        num_steps: int,
    ) -> npt.NDArray[np.int64]:
        """Feeds each request's active tokens, then its own next tokens.

        Args:
            batch: The requests, in the order of the rows of `kv_inputs`.
            kv_inputs: What `fetch` gave for one device.
            num_steps: How often to run the model.

        Returns:
            The next token of each request, `[num_steps, batch]`.
        """
        greedy = all(request.sampling.is_greedy for request in batch)
        graph = self._compiled.greedy if greedy else self._compiled.sampler
        ratios = self._ratios(batch)
        rows = () if greedy else self._row_params(batch)
        inputs = self._first_inputs(batch)
        each_one = np.arange(len(batch) + 1, dtype=np.uint32)
        outputs: list[Buffer] = []
        for step in range(num_steps):
            if step > 0:
                kv_inputs = self._manager.increment_cache_lengths(
                    kv_inputs, inputs
                )
                offsets = inputs.input_row_offsets
                if step == 1:
                    offsets = self._to_device(each_one)
                inputs = StepInputs(outputs[-1], offsets)
            seeds = () if greedy else (self._seeds(batch, step),)
            (tokens, *_) = graph.execute(
                inputs.tokens,
                inputs.input_row_offsets,
                *kv_inputs[0],
                *ratios,
                *rows,
                *seeds,
            )
            outputs.append(tokens)
        return np.stack([tokens.to_numpy() for tokens in outputs])

    def _warm_up(self) -> None:
        """Compiles the manager's increment graph, on a batch of none."""
        none = self._first_inputs([])
        self._manager.increment_cache_lengths(self._manager.fetch([], 2), none)

    def _first_inputs(self, batch: Sequence[GenerationRequest]) -> StepInputs:
        """Lays the rows' active tokens end to end."""
        lengths = [request.tokens.active_length for request in batch]
        offsets = np.zeros(len(batch) + 1, dtype=np.uint32)
        np.cumsum(lengths, out=offsets[1:])
        rows = [request.tokens.active for request in batch]
        tokens = np.concatenate([np.empty(0, np.int64), *rows])
        return StepInputs(self._to_device(tokens), self._to_device(offsets))

    def _ratios(self, batch: Sequence[GenerationRequest]) -> list[Buffer]:
        """Returns what graphs that choose blocks take: the ratios, `[batch]`.

        The others take nothing.
        """
        if self._compiled.flow is None:
            return []
        ratios = [
            self._ratio if r.attention_ratio is None else r.attention_ratio
            for r in batch
        ]
        return [self._to_device(np.array(ratios, np.float32))]

    def _row_params(
        self, batch: Sequence[GenerationRequest]
    ) -> tuple[Buffer, Buffer, Buffer]:
        """Returns temperature, top_k and top_p, `[batch]` each."""
        params = [request.sampling for request in batch]
        top_k = [1 if p.is_greedy else p.top_k for p in params]
        return (
            self._to_device(np.array([p.temperature for p in params], "f4")),
            self._to_device(np.array(top_k, np.int64)),
            self._to_device(np.array([p.top_p for p in params], "f4")),
        )

    def _seeds(self, batch: Sequence[GenerationRequest], step: int) -> Buffer:
        """Returns the random seed of each row's next token, `[batch]`."""
        seeds = [
            token_seed(r.sampling.seed, r.tokens.current_position + step)
            for r in batch
        ]
        return self._to_device(np.array(seeds, np.uint64))

    def _to_device(self, array: npt.NDArray[np.generic]) -> Buffer:
        return Buffer.from_numpy(array).to(self._compiled.device)

"""A Llama model's graphs, compiled for the caches that it is to use."""

from collections.abc import Sequence

from max.driver import Device
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef, Module

from kvcache.graphs.llama import Array, llama_graph, llama_weights
from kvcache.model import LlamaModel
from kvcache.ops import CacheInputTypes, precompiled_package
from kvcache.spec import KVCacheParams

GREEDY, SAMPLER = "llama_greedy", "llama_sampler"
"""The names of a model's graphs."""


class CompiledLlama:
    """A model's graphs for one cache, and its weights, on one device.

    A graph is compiled when it is first asked for, unless `compile_together`
    did so before.

    Args:
        model: The weights and their sizes.
        params: The shape of the cache, its page size included.
        device: Where the pages and the weights are.
        session: Compiles the graphs.
        return_logits: Whether the graphs give their logits too.
    """

    def __init__(
        self,
        model: LlamaModel,
        params: KVCacheParams,
        *,
        device: Device,
        session: InferenceSession,
        return_logits: bool = False,
    ) -> None:
        """Compiles nothing yet."""
        assert params.page_size is not None, "the paged strategy has one"
        self.device = device
        self.graphs: dict[str, Model] = {}
        self._model = model
        self._session = session
        self._weights: dict[str, Array] = {}
        self._return_logits = return_logits
        self._cache = CacheInputTypes(
            dtype=DType[params.dtype],
            num_layers=model.config.num_layers,
            page_size=params.page_size,
            num_kv_heads=params.n_kv_heads_per_device,
            head_dim=params.head_dim,
            device=DeviceRef.from_device(device),
            quantization=params.quantization,
            compute_dtype=DType.float32 if params.quantization else None,
            summaries=params.summaries,
        )

    @property
    def greedy(self) -> Model:
        """The graph that takes the best token."""
        return self._graph(GREEDY)

    @property
    def sampler(self) -> Model:
        """The graph that samples."""
        return self._graph(SAMPLER)

    def add_to(self, module: Module, kind: str, *, name: str) -> None:
        """Adds a graph to those that a module compiles.

        Args:
            module: The module.
            kind: `GREEDY` or `SAMPLER`.
            name: The graph's name there.
        """
        llama_graph(
            self._model.config,
            self._cache,
            sampling=kind == SAMPLER,
            return_logits=self._return_logits,
            name=name,
            module=module,
        )

    def load(self, module: Module) -> dict[str, Model]:
        """Compiles a module's graphs, over this model's weights."""
        self._weights = self._weights or llama_weights(
            self._model.config, self._model.weights
        )
        return self._session.load_all(
            module,
            custom_extensions=[precompiled_package()],
            weights_registry=self._weights,
        )

    def _graph(self, kind: str) -> Model:
        if kind not in self.graphs:
            _compile([self], [kind])
        return self.graphs[kind]


def compile_together(
    caches: Sequence[CompiledLlama], *, samples: bool = False
) -> None:
    """Compiles one model's graphs for one or several caches.

    Most of what a graph needs is the same for all, and compiled once. Whoever
    uses one of them keeps the first one, which has the weights.

    Args:
        caches: The same model in the same session, with different caches.
        samples: Whether the graphs that sample are wanted too, which cost
            little in company.
    """
    _compile(caches, [GREEDY, SAMPLER] if samples else [GREEDY])


def _compile(caches: Sequence[CompiledLlama], kinds: Sequence[str]) -> None:
    module = Module()
    for index, cache in enumerate(caches):
        for kind in kinds:
            cache.add_to(module, kind, name=f"{kind}_{index}")
    graphs = caches[0].load(module)
    for index, cache in enumerate(caches):
        cache.graphs |= {kind: graphs[f"{kind}_{index}"] for kind in kinds}

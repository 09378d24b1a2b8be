"""The tensors of one call of causal paged attention."""

from kv_cache.types import KVCacheStaticParams

from .attention_rules import AttentionRules, RulesInUse
from .cache import PagedKVCache
from .ragged import RaggedBatch
from .scales import Quantization


struct AttentionInputs[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rules_in_use: RulesInUse,
    kv_dtype: DType = dtype,
    quantization: Quantization = Quantization(),
](TrivialRegisterPassable):
    """What one layer's attention over a ragged batch reads and writes.

    Parameters:
        dtype: The type of queries and results; sums are float32.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads, a multiple of the key-value heads.
        rules_in_use: The rules that the kernel is compiled with.
        kv_dtype: The element type of the pool.
        quantization: Which of its elements share a scale.
    """

    comptime CacheType = PagedKVCache[
        Self.kv_dtype, Self.kv_params, Self.page_size, Self.quantization
    ]
    """The view of one layer's keys or values."""

    comptime head_dim = Self.kv_params.head_size
    """The elements per head."""

    comptime group = Self.num_q_heads // Self.kv_params.num_heads
    """The query heads that share a key-value head."""

    var output: Pointer[Scalar[Self.dtype], MutUntrackedOrigin]
    """Receives the result, `[total_tokens, num_q_heads, head_dim]`."""

    var queries: Pointer[Scalar[Self.dtype], ImmUntrackedOrigin]
    """The queries, of the same shape."""

    var keys: Self.CacheType
    """The layer's keys, those of the new tokens included."""

    var values: Self.CacheType
    """The layer's values, those of the new tokens included."""

    var batch: RaggedBatch
    """The rows of each sequence."""

    var rules: AttentionRules[Self.rules_in_use]
    """What a query sees, and how its scores are formed."""

    def __init__(
        out self,
        output: Pointer[Scalar[Self.dtype], MutUntrackedOrigin],
        queries: Pointer[Scalar[Self.dtype], ImmUntrackedOrigin],
        keys: Self.CacheType,
        values: Self.CacheType,
        batch: RaggedBatch,
        rules: AttentionRules[Self.rules_in_use],
    ):
        """Collects the tensors of one call.

        Args:
            output: Receives the result.
            queries: The queries of every row.
            keys: The layer's keys.
            values: The layer's values.
            batch: The rows of each sequence.
            rules: What a query sees, and how its scores are formed.
        """
        self.output = output
        self.queries = queries
        self.keys = keys
        self.values = values
        self.batch = batch
        self.rules = rules

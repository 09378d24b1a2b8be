"""The tensors of one call of causal paged attention."""

from kv_cache.types import KVCacheStaticParams

from .attention_rules import AttentionRules, RulesInUse
from .cache import PagedKVCache
from .ragged import RaggedBatch
from .scales import Quantization
from .vectors import cpu_width


struct AttentionInputs[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rules_in_use: RulesInUse,
    kv_dtype: DType = dtype,
    quantization: Quantization = Quantization(),
    value_dim_: Int = 0,
    block_size: Int = 0,
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
        value_dim_: The elements of a value; 0 for as many as a key has.
        block_size: The tokens of a block, where blocks are chosen; else 0.
    """

    comptime CacheType = PagedKVCache[
        Self.kv_dtype,
        Self.kv_params,
        Self.page_size,
        Self.quantization,
        Self.block_size,
    ]
    """The view of one layer's keys or values."""

    comptime head_dim = Self.kv_params.head_size
    """The elements per head."""

    comptime value_dim = Self.value_dim_ if Self.value_dim_ else Self.head_dim
    """The leading elements of a value that count: all of them, unless values
    are parts of the keys."""

    comptime group = Self.num_q_heads // Self.kv_params.num_heads
    """The query heads that share a key-value head."""

    var output: Pointer[Scalar[Self.dtype], MutUntrackedOrigin]
    """Receives the result, `[total_tokens, num_q_heads, value_dim]`."""

    var queries: Pointer[Scalar[Self.dtype], ImmUntrackedOrigin]
    """The queries, `[total_tokens, num_q_heads, head_dim]`."""

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

    def over_chosen[
        tokens: Int
    ](
        self,
        block_ids: Pointer[UInt32, ImmUntrackedOrigin],
        sparse_lengths: Pointer[UInt32, ImmUntrackedOrigin],
        *,
        width: Int,
        out inputs: AttentionInputs[
            Self.dtype,
            Self.kv_params,
            Self.page_size,
            Self.num_q_heads,
            Self.rules_in_use,
            Self.kv_dtype,
            Self.quantization,
            Self.value_dim_,
            tokens,
        ],
    ):
        """Returns the same call over chosen blocks only.

        Parameters:
            tokens: The tokens of a block.

        Args:
            block_ids: The chosen blocks, `[batch_size, num_kv_heads, width]`.
            sparse_lengths: Tokens in the chosen blocks, the new one included,
                `[batch_size]`; 0 for sequences that have none chosen.
            width: The most blocks of a sequence.

        Returns:
            The call.
        """
        inputs = type_of(inputs)(
            self.output,
            self.queries,
            rebind[type_of(inputs).CacheType](
                self.keys.over_chosen[tokens](
                    block_ids, sparse_lengths, width=width
                )
            ),
            rebind[type_of(inputs).CacheType](
                self.values.over_chosen[tokens](
                    block_ids, sparse_lengths, width=width
                )
            ),
            self.batch,
            self.rules,
        )

    @always_inline
    def element(self, row: Int, head: Int) -> Int:
        """Returns where a query starts.

        Args:
            row: The row of the batch.
            head: The query head.

        Returns:
            The offset in elements.
        """
        return (row * Self.num_q_heads + head) * Self.head_dim

    @always_inline
    def result(self, row: Int, head: Int) -> Int:
        """Returns where the result of a query starts.

        Args:
            row: The row of the batch.
            head: The query head.

        Returns:
            The offset in elements.
        """
        return (row * Self.num_q_heads + head) * Self.value_dim

    @always_inline
    def write_row(self, sums: Pointer[Float32, _], weight: Float32, place: Int):
        """Writes the result of one row.

        Args:
            sums: The weighted sum of values, `[value_dim]`.
            weight: The sum of weights.
            place: Where the result starts, in elements.
        """
        comptime width = cpu_width[DType.float32](Self.value_dim)
        var target = self.output.unsafe_offset(place)
        comptime for i in range(0, Self.value_dim, width):
            var result = sums.unsafe_load[width=width](i) / weight
            target.unsafe_store(i, result.cast[Self.dtype]())

"""The tensors of one call of the prefill kernel."""

from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder

from .attention_inputs import AttentionInputs
from .attention_rules import AttentionRules
from .cache import PagedKVCache
from .prefill_shape import PrefillShape
from .ragged import RaggedBatch


struct PrefillCall[shape: PrefillShape](
    DevicePassable, TrivialRegisterPassable
):
    """What one layer's prefill attention reads and writes.

    Parameters:
        shape: What the kernel is compiled for.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    comptime CacheType = PagedKVCache[
        Self.shape.code,
        Self.shape.kv_params,
        Self.shape.page_size,
        Self.shape.quantization,
    ]
    """The view of one layer's keys or values."""

    comptime Number = Scalar[Self.shape.dtype]
    """An element of a query, or of the result."""

    var output: Pointer[Self.Number, MutUntrackedOrigin]
    """Receives the result, `[total_tokens, num_q_heads, head_dim]`."""

    var queries: Pointer[Self.Number, ImmUntrackedOrigin]
    """The queries, of the same shape."""

    var keys: Self.CacheType
    """The layer's keys, those of the new tokens included."""

    var values: Self.CacheType
    """The layer's values, those of the new tokens included."""

    var batch: RaggedBatch
    """The rows of each sequence."""

    var rules: AttentionRules[Self.shape.rules]
    """What a query sees, and how its scores are formed."""

    def __init__(out self, inputs: AttentionInputs[...]):
        """Collects the tensors of one call.

        Args:
            inputs: The tensors, of types that fit the shape.
        """
        self.output = rebind[type_of(self.output)](inputs.output)
        self.queries = rebind[type_of(self.queries)](inputs.queries)
        self.keys = rebind[Self.CacheType](inputs.keys)
        self.values = rebind[Self.CacheType](inputs.values)
        self.batch = inputs.batch
        self.rules = rebind[type_of(self.rules)](inputs.rules)

    def _to_device_type(
        self, mut encoder: Some[DeviceTypeEncoder], target: MutOpaquePointer[_]
    ):
        encoder.encode(self, target)

    @staticmethod
    def get_type_name() -> String:
        """Returns the name of this type.

        Returns:
            The name.
        """
        return "PrefillCall"

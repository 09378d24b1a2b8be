"""Where the scales of quantised pages lie, and a view of them.

A pool of 8-bit elements has a second pool beside it, under the same page ids:
float32, row-major `[num_pages + 1, kv, num_layers, slots, heads, groups]`, the
last page the null page's. A stored element means its code times its scale. How
many scales a page has for one layer's keys (or values) is its granularity:

| granularity | slots | heads | groups |
|---|---|---|---|
| `TENSOR` | 1 | 1 | 1 |
| `HEAD` | 1 | `num_kv_heads` | 1 |
| `TOKEN` | `page_size` | `num_kv_heads` | `head_dim / group_size` |

So a page carries its own scales: what copies, moves or shares a page does so
with the same page of both pools. The scale of element `(slot, head, dim)` of a
page is at

    page * page_stride + (kv * num_layers + layer) * plane_stride
        + (slot * heads + head) * groups + dim / group_size

where an axis of length 1 counts nothing, `plane_stride` is
`slots * heads * groups`, and `page_stride` is `kv_dim * num_layers` times that.
Group sizes are multiples of 8 that divide `head_dim`: eight elements that start
at a multiple of 8 share a scale.
"""

from std.collections import OptionalReg
from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder

comptime SHARED_WIDTH = 8
"""Aligned elements that share a scale, whatever the granularity."""


@fieldwise_init
struct Quantization(Equatable, TrivialRegisterPassable):
    """Which elements of a pool share a scale."""

    comptime NONE = 0
    """No scales: elements mean themselves."""

    comptime TENSOR = 1
    """All keys of a layer share one scale, and all values."""

    comptime HEAD = 2
    """All keys of a layer's head share one scale, and all values."""

    comptime TOKEN = 3
    """Each `group_size` elements of one token's head share one scale."""

    var granularity: Int
    """One of the four above."""

    var group_size: Int
    """With `TOKEN` the elements of a group; else it does not matter."""

    def __init__(out self):
        """Makes the value of a pool without scales."""
        self = Self(granularity=Self.NONE, group_size=0)


struct ScaleLayout[
    page_size: Int,
    num_kv_heads: Int,
    head_dim: Int,
    quantization: Quantization,
]:
    """Describes where one layer's scales lie in the pool of scales.

    Parameters:
        page_size: The tokens per page.
        num_kv_heads: The key-value heads held on this device.
        head_dim: The elements per head.
        quantization: Which elements share a scale.
    """

    comptime is_per_token = (
        Self.quantization.granularity == Quantization.TOKEN
    )
    """Whether each token has scales of its own."""

    comptime is_per_head = (Self.quantization.granularity >= Quantization.HEAD)
    """Whether each head has scales of its own."""

    comptime group_size = (
        Self.quantization.group_size if Self.is_per_token else Self.head_dim
    )
    """The elements of a head that share a scale."""

    comptime num_slots = Self.page_size if Self.is_per_token else 1
    """The tokens of a page that have scales of their own."""

    comptime num_heads = Self.num_kv_heads if Self.is_per_head else 1
    """The heads that have scales of their own."""

    comptime num_groups = Self.head_dim // Self.group_size
    """The scales of a head."""

    comptime token_stride = Self.num_heads * Self.num_groups
    """The scales of one slot."""

    comptime plane_stride = Self.num_slots * Self.token_stride
    """The scales that one page holds for one layer's keys (or values)."""

    @staticmethod
    @always_inline
    def page_stride(*, kv_dim: Int, num_layers: Int) -> Int:
        """Returns the scales between two consecutive pages.

        Args:
            kv_dim: 2 for keys and values, 1 for MLA.
            num_layers: The number of layers in the pool.

        Returns:
            The distance in scales.
        """
        return kv_dim * num_layers * Self.plane_stride

    @staticmethod
    @always_inline
    def plane_offset(*, kv: Int, layer: Int, num_layers: Int) -> Int:
        """Returns where one layer's scales start in every page.

        Args:
            kv: 0 for keys, 1 for values.
            layer: The layer in `[0, num_layers)`.
            num_layers: The number of layers in the pool.

        Returns:
            The offset in scales from the start of a page.

        Preconditions:
            `layer` must be in range.
        """
        assert 0 <= layer < num_layers, "layer out of range"
        return (kv * num_layers + layer) * Self.plane_stride

    @staticmethod
    @always_inline
    def offset(*, page_offset: Int, slot: Int, head: Int, dim: Int) -> Int:
        """Returns where an element's scale lies in a layer's scales.

        Args:
            page_offset: The page times the page stride, in scales.
            slot: The token's place in its page, in `[0, page_size)`.
            head: The key-value head in `[0, num_kv_heads)`.
            dim: The element of the head in `[0, head_dim)`.

        Returns:
            The offset in scales.

        Preconditions:
            `slot`, `head` and `dim` must be in range.
        """
        assert 0 <= slot < Self.page_size, "slot out of range"
        assert 0 <= head < Self.num_kv_heads, "head out of range"
        assert 0 <= dim < Self.head_dim, "dim out of range"
        var offset = page_offset
        comptime if Self.is_per_token:
            offset += slot * Self.token_stride
        comptime if Self.is_per_head:
            offset += head * Self.num_groups
        return offset + dim // Self.group_size


struct PageScales[
    page_size: Int,
    num_kv_heads: Int,
    head_dim: Int,
    quantization: Quantization,
](DevicePassable, TrivialRegisterPassable):
    """A view of the scales of one layer's keys, or of its values.

    It owns no memory. Without quantisation it refers to nothing.

    Parameters:
        page_size: The tokens per page.
        num_kv_heads: The key-value heads held on this device.
        head_dim: The elements per head.
        quantization: Which elements share a scale.
    """

    comptime layout = ScaleLayout[
        Self.page_size, Self.num_kv_heads, Self.head_dim, Self.quantization
    ]
    """Where a scale lies."""

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    var ptr: OptionalReg[Pointer[Float32, MutUntrackedOrigin]]
    """The first page's scales of this layer."""

    var page_stride: Int64
    """The scales between two consecutive pages."""

    def __init__(out self):
        """Makes the view of a cache without scales."""
        self.ptr = None
        self.page_stride = 0

    def __init__(
        out self,
        pool: OptionalReg[Pointer[Float32, MutUntrackedOrigin]],
        *,
        kv: Int,
        layer: Int,
        kv_dim: Int,
        num_layers: Int,
    ):
        """Cuts one layer's scales out of the pool of scales.

        Args:
            pool: The pool's first scale; none without quantisation.
            kv: 0 for keys, 1 for values.
            layer: The layer in `[0, num_layers)`.
            kv_dim: 2 for keys and values, 1 for MLA.
            num_layers: The layers in the pool.
        """
        self = Self()
        comptime if Self.quantization.granularity != Quantization.NONE:
            assert Bool(pool), "a quantised cache has a pool of scales"
            self.ptr = pool.value().unsafe_offset(
                Self.layout.plane_offset(
                    kv=kv, layer=layer, num_layers=num_layers
                )
            )
            self.page_stride = Int64(
                Self.layout.page_stride(kv_dim=kv_dim, num_layers=num_layers)
            )

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
        return "PageScales"

    @always_inline
    def address(
        self, *, page: Int, slot: Int, head: Int, dim: Int = 0
    ) -> Pointer[Float32, MutUntrackedOrigin]:
        """Returns where an element's scale is.

        Args:
            page: The page.
            slot: The token's place in its page, in `[0, page_size)`.
            head: The key-value head in `[0, num_kv_heads)`.
            dim: The element of the head in `[0, head_dim)`.

        Returns:
            The scale; the head's next groups follow it.

        Constraints:
            The cache must be quantised.
        """
        comptime assert (
            Self.quantization.granularity != Quantization.NONE
        ), "only a quantised cache has scales"
        return self.ptr.value().unsafe_offset(
            Self.layout.offset(
                page_offset=page * Int(self.page_stride),
                slot=slot,
                head=head,
                dim=dim,
            )
        )

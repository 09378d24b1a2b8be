"""How operators are called on the cache side."""

from typing import Any

from kvcache.compiler.cache.context import Context
from kvcache.compiler.element_types import element_type
from kvcache.compiler.operators.tile_op import Tile, TileOp
from kvcache.compiler.program import Side
from kvcache.compiler.vtensor import FORMAT, vTensor

_FORMATS = (FORMAT.PAGED, FORMAT.RAGGED)
_KEYS_AND_VALUES = {"cache['k']", "cache['v']"}


class CacheOp(TileOp):
    """An operator on blocks that are complete.

    Called as `op(x, output, loc=loc, ctx=ctx)`, with `x, y` where it has two
    operands. `output=None` makes a tensor with one row for each new token and
    head; else the operator makes the tensor that is given, a field of the
    cache, instead of what made it before.
    """

    def profile(
        self,
        *operands: Any,
        ctx: Context,
        output: vTensor | None = None,
        loc: Any,
    ) -> vTensor:
        """Checks the operands and records the call.

        Args:
            *operands: The tensors that it reads; then the output, unless
                it is named.
            ctx: The context that records it.
            output: What it makes: a declared field, or None.
            loc: The slots of new tokens, int64 `[num_tokens]`; their values
                are not looked at.

        Returns:
            `output`, or the new tensor.

        Raises:
            TypeError: If the count of operands is another.
            AssertionError: If they or the output do not fit.
            ValueError: If the elements of an operand are no floats.
            RuntimeError: If the context is not created.
        """
        if output is None and len(operands) == self.arity + 1:
            operands, output = operands[:-1], operands[-1]
        self.require_side(ctx, Side.CACHE)
        self._require_loc(loc)
        read = self.read_operands(operands, ctx, _FORMATS)
        tile = self.result_tile(*(each.tile for each in read))
        if output is None:
            output = self._new_output(ctx, read, tile)
        else:
            self._require_output(ctx, read, output, tile)
        ctx.record(self, read, output)
        return output

    def _new_output(
        self, ctx: Context, read: list[vTensor], tile: Tile
    ) -> vTensor:
        return ctx.add_tensor(
            tile,
            ctx.vortex_dtype,
            FORMAT.RAGGED,
            rows=ctx.max_new_tokens_per_batch * ctx.head_num,
            device=read[0].device,
        )

    def _require_loc(self, loc: Any) -> None:
        try:
            fits = element_type(loc.dtype) == "int64" and len(loc.shape) == 1
        except (AttributeError, TypeError):
            fits = False
        described = (
            f"{loc.dtype} {tuple(loc.shape)}"
            if hasattr(loc, "dtype") and hasattr(loc, "shape")
            else type(loc).__name__
        )
        self.require(
            fits, f"wanted loc to be int64 of one axis, got {described}"
        )

    def _require_output(
        self, ctx: Context, read: list[vTensor], output: vTensor, tile: Tile
    ) -> None:
        """Checks a tensor that the caller gives as output."""
        self.require(
            isinstance(output, vTensor),
            f"wanted output to be a vTensor, got {type(output).__name__}",
        )
        self.require(
            ctx.holds(output),
            f"wanted output to be a tensor of this recording, got {output}",
        )
        self._require_output_format(output)
        self.require(
            output.tile == tile,
            f"wanted output of shape (*, {tile[0]}, {tile[1]}), got "
            f"{output.shape}",
        )
        name = ctx.tensor_id_to_tensor_name_map.get(output.tensor_id)
        self.require(
            name not in _KEYS_AND_VALUES,
            f"wanted output to be a declared field, got {name}",
        )
        for each in read:
            self.require_same_device(each, output)

    def _require_output_format(self, output: vTensor) -> None:
        self.require(
            output.format in _FORMATS,
            f"wanted output of format PAGED or RAGGED, got {output}",
        )

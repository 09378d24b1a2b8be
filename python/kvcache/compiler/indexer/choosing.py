"""The operator that ends an indexer: it chooses blocks by their scores."""

from typing import Any, ClassVar

from kvcache.compiler.indexer.context import Context
from kvcache.compiler.operators.tile_op import TileOp
from kvcache.compiler.program import Side
from kvcache.compiler.vop import Schedule
from kvcache.compiler.vtensor import FORMAT, vTensor


class topK(TileOp):  # noqa: N801  (the seed's name)
    """Writes the blocks of each request and head that are attended to `o`.

    Called once in a flow, as `op(score, o, ctx=ctx)`, with a score of tile
    `(1, 1)` for each block. Of a request's S blocks,
    `min(S, max(topk_val + bos + eos, int(S * topk_ratio)))` are chosen: the
    first `bos`, the last `eos`, and of the others those with the highest
    scores; of equal ones the first. NaN counts as minus infinity. They are
    written in ascending order.
    """

    schedule = Schedule.S
    arity: ClassVar[int] = 1

    def profile(self, *operands: Any, ctx: Context) -> vTensor:
        """Checks the operands and records the call.

        Args:
            *operands: The score, RAGGED `[S, 1, 1]`; then `o`.
            ctx: The context that records it.

        Returns:
            `o`.

        Raises:
            TypeError: If there are not two operands.
            AssertionError: If they do not fit, or the flow has chosen.
            ValueError: If scores are no floats.
            RuntimeError: If the context is not created.
        """
        if len(operands) != 2:
            raise TypeError(
                f"topK: wanted a score and o, got {len(operands)} operands"
            )
        self.require_side(ctx, Side.INDEXER)
        (score,) = self.read_operands(operands[:1], ctx, (FORMAT.RAGGED,))
        self.require(
            score.tile == (1, 1),
            f"wanted a score of shape (*, 1, 1), got {score.shape}",
        )
        output = self._output(ctx, operands[1])
        self.require_same_device(score, output)
        ctx.record(self, [score], output)
        return output

    def _output(self, ctx: Context, given: object) -> vTensor:
        if not isinstance(given, vTensor):
            raise AssertionError(  # noqa: TRY004 - the seed's type
                f"topK: wanted o to be a vTensor, got {type(given).__name__}"
            )
        self.require(
            ctx.holds(given),
            f"wanted o to be a tensor of this recording, got {given}",
        )
        name = ctx.tensor_id_to_tensor_name_map.get(given.tensor_id)
        self.require(name == "o", f"wanted o, got {name or given}")
        self.require(
            ctx.output_tensor_to_op_list[given.tensor_id] is None,
            "wanted one call in a flow, got a second one",
        )
        return given

"""Computes the kernels of a flow's indexer, on the CPU."""

from .block_source import BlockSource, total_scored
from .parallel import parallel_ranges
from .request_place import RequestPlace

comptime GRAIN_BLOCKS = 1 << 9
"""The fewest blocks to score under a head that are worth a task."""


trait CpuScorer(ImplicitlyCopyable):
    """One kernel of a compiled flow, for one sequence and key-value head."""

    def score_cpu(self, at: RequestPlace):
        """Computes the tiles of the sequence's scored blocks.

        Args:
            at: The sequence and head.
        """
        ...


def score_cpu[
    Flow: CpuScorer, Tables: BlockSource, //
](flow: Flow, tables: Tables, *, num_kv_heads: Int, layer: Int,) raises:
    """Computes a kernel for the sequences of one new token, over the cores.

    Parameters:
        Flow: The compiled kernel.
        Tables: What finds the sequences' blocks.

    Args:
        flow: What to do for a sequence and head.
        tables: The step.
        num_kv_heads: The key-value heads held on this device.
        layer: The layer.

    Raises:
        If a task fails.
    """

    def score(begin: Int, end: Int) raises {imm}:
        for item in range(begin, end):
            var seq, head = divmod(item, num_kv_heads)
            var num_blocks = tables.num_scored(seq)
            if num_blocks > 0:
                flow.score_cpu(
                    RequestPlace(
                        seq=seq,
                        head=head,
                        layer=layer,
                        row=tables.query_row(seq),
                        num_blocks=num_blocks,
                    )
                )

    parallel_ranges(
        score,
        num_items=tables.num_sequences() * num_kv_heads,
        amount=total_scored(tables) * num_kv_heads,
        grain=GRAIN_BLOCKS,
    )

"""Turns cached keys on to new positions, on the CPU."""

from std.sys import size_of

from .parallel import GRAIN_BYTES, parallel_ranges
from .rope_shift import RopeShift
from .vectors import cpu_width


def rope_shift_cpu(work: RopeShift, *, num_shifts: Int, num_layers: Int) raises:
    """Turns every shift's keys in every layer, spread over the cores.

    Args:
        work: The tensors.
        num_shifts: The shifts.
        num_layers: The layers in the pool.

    Raises:
        If a task fails.
    """
    comptime width = cpu_width[DType.float32](work.pairs)
    comptime num_chunks = work.rope_dim // 2 // width
    comptime plane_bytes = work.Plane.plane_stride * size_of[work.dtype]()

    def turn_planes(begin: Int, end: Int) raises {imm}:
        for index in range(begin, end):
            var shift, layer = divmod(index, num_layers)
            work.check(shift)
            for slot in range(work.column(shift, 1), work.column(shift, 2)):
                for head in range(work.num_kv_heads):
                    comptime for chunk in range(num_chunks):
                        work.turn[width](shift, layer, slot, head, chunk)

    parallel_ranges(
        turn_planes,
        num_items=num_shifts * num_layers,
        amount=num_shifts * num_layers * plane_bytes,
        grain=GRAIN_BYTES,
    )

"""The states of gated-delta-net layers, one slot a request."""

from typing import TypeAlias

import torch

from kvcache.errors import SlotStateError, TensorMismatchError
from kvcache.pools.devices import available_device, zeros
from kvcache.pools.indices import (
    at_least,
    check_index,
    check_range,
    flat_indices,
)
from kvcache.pools.rows import has_triton

Slots: TypeAlias = int | torch.Tensor
"""One slot, or some."""

_MOST_IN_ONE_LAUNCH = 512
"""The most slots that a GPU copies at once: it holds them all in registers."""


class GDNPool:
    """Recurrent and convolution states of every linear-attention layer.

    Slots 1 to `max_reqs` are those of the requests of a `ReqToTokenPool`, by
    the same number. Slot 0 is nobody's: padded entries of a batch go there.
    Slots behind `max_reqs` are track slots, which hold snapshots.

    Args:
        max_reqs: Requests at the same time.
        num_gdn_layers: Layers that have such states.
        num_v_heads: Value heads.
        head_k_dim: Elements per key.
        head_v_dim: Elements per value.
        conv_dim: Channels of the convolution.
        conv_kernel_size: Tokens that the convolution sees, this one included.
        device: Where the states are.
        dtype: The element type of the convolution's states.
        max_track_slots: Snapshots at the same time.

    Raises:
        DeviceNotAvailableError: If torch does not have the device.
        InvalidParamsError: If a size is not positive.
    """

    recurrent_state: torch.Tensor
    """float32 `[num_gdn_layers, num_slots, num_v_heads, head_v_dim,
    head_k_dim]`."""
    conv_state: torch.Tensor
    """`[num_gdn_layers, num_slots, conv_dim, conv_kernel_size - 1]`."""
    checks_indices: bool
    """Whether the values of index tensors are looked at first.

    True on the CPU; on a GPU that would wait for the device. Python's own
    numbers are checked always.
    """

    def __init__(  # noqa: PLR0917 - the seed's order
        self,
        max_reqs: int,
        num_gdn_layers: int,
        num_v_heads: int,
        head_k_dim: int,
        head_v_dim: int,
        conv_dim: int,
        conv_kernel_size: int,
        device: str | torch.device = "cuda",
        dtype: torch.dtype = torch.bfloat16,
        max_track_slots: int = 0,
    ) -> None:
        """Makes the states, all zero."""
        self.max_reqs = at_least(max_reqs, 1, "max_reqs")
        self.num_gdn_layers = at_least(num_gdn_layers, 1, "num_gdn_layers")
        self.num_v_heads = at_least(num_v_heads, 1, "num_v_heads")
        self.head_k_dim = at_least(head_k_dim, 1, "head_k_dim")
        self.head_v_dim = at_least(head_v_dim, 1, "head_v_dim")
        self.conv_dim = at_least(conv_dim, 1, "conv_dim")
        self.conv_kernel_size = at_least(
            conv_kernel_size, 1, "conv_kernel_size"
        )
        self.max_track_slots = at_least(max_track_slots, 0, "max_track_slots")
        self.device = available_device(device)
        self.dtype = dtype
        self.checks_indices = self.device.type == "cpu"
        self.recurrent_state = self._zeros(
            num_v_heads, head_v_dim, head_k_dim, dtype=torch.float32
        )
        self.conv_state = self._zeros(
            conv_dim, conv_kernel_size - 1, dtype=dtype
        )
        # A slot's number where the states are: none has to be brought there.
        self._numbers = torch.arange(self.pool_size, device=self.device)
        self._free_tracks = list(range(max_reqs + 1, self.pool_size))
        self._held_tracks: set[int] = set()

    def _zeros(self, *state: int, dtype: torch.dtype) -> torch.Tensor:
        shape = [self.num_gdn_layers, self.pool_size, *state]
        return zeros(shape, dtype=dtype, device=self.device)

    @property
    def pool_size(self) -> int:
        """Slots: the padding's, those of requests, and track slots."""
        return 1 + self.max_reqs + self.max_track_slots

    def get_layer_state(
        self, gdn_layer_idx: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns one layer's recurrent and convolution states.

        Both are views: `[pool_size, num_v_heads, head_v_dim, head_k_dim]` and
        `[pool_size, conv_dim, conv_kernel_size - 1]`.

        Raises:
            SlotRangeError: If there is no such layer.
        """
        layer = check_index(
            gdn_layer_idx, 0, self.num_gdn_layers - 1, "gdn_layer_idx"
        )
        return self.recurrent_state[layer], self.conv_state[layer]

    def reset_states(self, req_pool_indices: Slots) -> None:
        """Makes the states of slots zero, in all layers at once.

        Args:
            req_pool_indices: The slots, int32 or int64 of any shape, or one.

        Raises:
            SlotRangeError: If there is no such slot.
            TensorMismatchError: If they are of another dtype.
        """
        slots = self._slots(req_pool_indices, "req_pool_indices")
        if not slots.numel():
            return
        if has_triton(slots):
            from kvcache.pools.triton_kernels import reset_states_triton

            reset_states_triton(*self._words(), slots)
            return
        for states in (self.recurrent_state, self.conv_state):
            states.index_fill_(1, slots.long(), 0)

    def copy_states(self, src_index: Slots, dst_index: Slots) -> None:
        """Copies the states of slots to other slots, in all layers at once.

        All are read before one is written, so slots may change places. A slot
        that is written twice has one of the two states afterwards.

        Args:
            src_index: Where from: one slot, or int32 or int64 of any shape.
            dst_index: Where to: as many.

        Raises:
            SlotRangeError: If there is no such slot.
            TensorMismatchError: If the counts differ, or the dtype is another.
        """
        sources = self._slots(src_index, "src_index")
        targets = self._slots(dst_index, "dst_index")
        if sources.numel() != targets.numel():
            raise TensorMismatchError(
                f"wanted as many sources as targets, got {sources.numel()} "
                f"and {targets.numel()}"
            )
        count = sources.numel()
        if has_triton(sources) and 0 < count <= _MOST_IN_ONE_LAUNCH:
            from kvcache.pools.triton_kernels import copy_states_triton

            copy_states_triton(*self._words(), sources, targets)
            return
        for states in (self.recurrent_state, self.conv_state):
            read = states.index_select(1, sources.long())
            states.index_copy_(1, targets.long(), read)

    def alloc_track_slot(self) -> int | None:
        """Takes a track slot, the one given back last, or None if all are used.

        It still has what its last user wrote.
        """
        if not self._free_tracks:
            return None
        track = self._free_tracks.pop()
        self._held_tracks.add(track)
        return track

    def free_track_slot(self, slot: int) -> None:
        """Gives a track slot back.

        Raises:
            SlotRangeError: If it is no track slot.
            SlotStateError: If it is free already.
        """
        track = check_index(
            slot, self.max_reqs + 1, self.pool_size - 1, "track slot"
        )
        if track not in self._held_tracks:
            raise SlotStateError(f"track slot {track} is free already")
        self._held_tracks.remove(track)
        self._free_tracks.append(track)

    def mem_bytes(self) -> int:
        """Returns the bytes of all states."""
        return int(self.recurrent_state.nbytes + self.conv_state.nbytes)

    def _words(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns both states as integers, `[num_layers, num_slots, words]`."""
        integers = {1: torch.int8, 2: torch.int16, 4: torch.int32}
        recurrent, conv = (
            each.view(integers.get(each.itemsize, torch.int64)).flatten(2)
            for each in (self.recurrent_state, self.conv_state)
        )
        return recurrent, conv

    def _slots(self, given: Slots, name: str) -> torch.Tensor:
        """Returns slots as a tensor, int32 or int64 `[num_slots]`."""
        last = self.pool_size - 1
        if not isinstance(given, torch.Tensor):
            slot = check_index(given, 0, last, name)
            return self._numbers[slot : slot + 1]
        slots = flat_indices(given, self.recurrent_state.device, name)
        if self.checks_indices:
            check_range(slots, 0, last, name)
        return slots

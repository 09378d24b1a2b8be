"""The keys and values of every token, one buffer each a layer."""

import torch

from kvcache.errors import InvalidParamsError
from kvcache.pools.devices import available_device, can_pin, zeros
from kvcache.pools.indices import (
    INT32_LIMIT,
    at_least,
    check_index,
    check_range,
    flat_indices,
)
from kvcache.pools.rows import as_rows, write_rows


class KVPool:
    """Storage for the keys and values of `size` tokens in every layer.

    Slots are numbered from 1 to `size`. Slot 0 is nobody's and takes what
    padded tokens write. Keys and values have head counts and head sizes of
    their own, so grouped queries and multi-head latents fit.

    Args:
        size: Slots for tokens.
        layer_num: Layers.
        k_head_num: Key heads.
        k_head_dim: Elements per key head.
        device: Where the buffers are.
        dtype: The element type.
        v_head_num: Value heads; those of the keys if None.
        v_head_dim: Elements per value head; those of the keys if None.
        pin_memory: Whether buffers in host memory are pinned. They are only
            where torch has an accelerator that could use it.
        page_size: Tokens per page of the allocator. Above 1 the buffers hold
            whole pages, and one more of which slot 0 is the first.

    Raises:
        DeviceNotAvailableError: If torch does not have the device.
        InvalidParamsError: If a size is not positive, or too large for int32
            slots.
    """

    checks_indices: bool
    """Whether `set_kv_buffer` looks at the values of its indices first.

    True on the CPU. On a GPU that would wait for the device on each layer, so
    it is False until someone sets it, for a debugging run; torch's own kernel
    then stops the process at an index past the end.
    """

    def __init__(  # noqa: PLR0917 - the seed's order
        self,
        size: int,
        layer_num: int,
        k_head_num: int,
        k_head_dim: int,
        device: str | torch.device = "cuda",
        dtype: torch.dtype = torch.float16,
        v_head_num: int | None = None,
        v_head_dim: int | None = None,
        pin_memory: bool = True,
        *,
        page_size: int = 1,
    ) -> None:
        """Makes the buffers, all zero."""
        self.size = at_least(size, 1, "size")
        self.layer_num = at_least(layer_num, 1, "layer_num")
        self.k_head_num = at_least(k_head_num, 1, "k_head_num")
        self.k_head_dim = at_least(k_head_dim, 1, "k_head_dim")
        self.v_head_num = at_least(
            k_head_num if v_head_num is None else v_head_num, 1, "v_head_num"
        )
        self.v_head_dim = at_least(
            k_head_dim if v_head_dim is None else v_head_dim, 1, "v_head_dim"
        )
        self._num_slots = num_slots(size, page_size)
        self.device = available_device(device)
        self.dtype = dtype
        self.checks_indices = self.device.type == "cpu"
        pins = pin_memory and self.device.type == "cpu" and can_pin()
        self.k_buffer = self._buffers(self.k_head_num, self.k_head_dim, pins)
        self.v_buffer = self._buffers(self.v_head_num, self.v_head_dim, pins)

    def _buffers(
        self, num_heads: int, head_dim: int, pins: bool
    ) -> list[torch.Tensor]:
        shape = (self._num_slots, num_heads, head_dim)
        return [
            zeros(shape, dtype=self.dtype, device=self.device, pin_memory=pins)
            for _ in range(self.layer_num)
        ]

    def get_key_buffer(self, layer_id: int) -> torch.Tensor:
        """Returns a layer's keys, `[num_slots, k_head_num, k_head_dim]`.

        It is the buffer itself and no copy.

        Raises:
            SlotRangeError: If there is no such layer.
        """
        return self.k_buffer[self._layer(layer_id)]

    def get_value_buffer(self, layer_id: int) -> torch.Tensor:
        """Returns a layer's values, `[num_slots, v_head_num, v_head_dim]`.

        It is the buffer itself and no copy.

        Raises:
            SlotRangeError: If there is no such layer.
        """
        return self.v_buffer[self._layer(layer_id)]

    def get_kv_buffer(self, layer_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns a layer's keys and values, the buffers themselves.

        Raises:
            SlotRangeError: If there is no such layer.
        """
        layer = self._layer(layer_id)
        return self.k_buffer[layer], self.v_buffer[layer]

    def set_kv_buffer(
        self,
        layer_id: int,
        indices: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
    ) -> None:
        """Writes the keys and values of tokens into their slots.

        If a slot comes twice, it has one of the two rows afterwards.

        Args:
            layer_id: The layer.
            indices: The slots, int32 or int64, of any shape.
            k: The keys: trailing dimensions of `k_head_num * k_head_dim`
                elements in all, leading ones of as many tokens as `indices`
                has elements.
            v: The values, likewise.

        Raises:
            SlotRangeError: If there is no such layer or, where
                `checks_indices` is true, no such slot.
            TensorMismatchError: If a shape, a dtype or a device does not fit.
        """
        keys, values = self.get_kv_buffer(layer_id)
        slots = flat_indices(indices, keys.device)
        num_rows = slots.numel()
        key_rows = as_rows(k, keys, num_rows=num_rows, name="k")
        value_rows = as_rows(v, values, num_rows=num_rows, name="v")
        if self.checks_indices:
            check_range(slots, 0, self._num_slots - 1)
        if num_rows:
            write_rows(keys, values, slots, key_rows, value_rows)

    def mem_bytes(self) -> int:
        """Returns the bytes of all buffers."""
        return sum(each.nbytes for each in (*self.k_buffer, *self.v_buffer))

    _mem_bytes = mem_bytes  # pymllm's name

    def _layer(self, layer_id: int) -> int:
        return check_index(layer_id, 0, self.layer_num - 1, "layer_id")


def num_slots(size: int, page_size: int) -> int:
    """Returns how many slots a buffer has, slot 0 among them.

    Args:
        size: Slots for tokens.
        page_size: Tokens per page. Above 1, page 0 is the padding's.

    Returns:
        The slots, of whole pages.

    Raises:
        InvalidParamsError: If int32 does not reach the last one.
    """
    at_least(page_size, 1, "page_size")
    num_pages = -(-at_least(size, 1, "size") // page_size)
    total = (num_pages + 1) * page_size
    if total > INT32_LIMIT:
        raise InvalidParamsError(
            f"wanted slots that int32 can number, got {total} of them"
        )
    return total

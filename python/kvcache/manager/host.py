"""The host tier: how many pages it has, and where they are."""

from collections.abc import Sequence

from max.driver import Buffer, Device, Usage
from max.dtype import DType

from kvcache.errors import InsufficientMemoryError, InvalidParamsError
from kvcache.manager.sizing import spread
from kvcache.spec import KVCacheParams

_GIB = 2**30


def host_shares(params: KVCacheParams, bytes_per_page: int) -> list[int]:
    """Returns the host pages of each replica, all 0 without a host tier.

    Args:
        params: Says whether there is a host tier and how large it is.
        bytes_per_page: Bytes of a page over all devices of a replica.

    Raises:
        InvalidParamsError: If no finite size from 0 on is given.
        InsufficientMemoryError: If a replica's share does not hold one page.
    """
    replicas = params.data_parallel_degree
    if not params.enable_kvcache_swapping_to_host:
        return [0] * replicas
    size = params.host_kvcache_swap_space_gb
    if size is None or not 0 <= size < float("inf"):
        raise InvalidParamsError(
            f"wanted host_kvcache_swap_space_gb from 0 on, got {size}"
        )
    total = int(_GIB * size) // bytes_per_page
    if total < replicas:
        raise InsufficientMemoryError(
            f"wanted at least {replicas * bytes_per_page} bytes of host memory "
            f"for a page of each replica, got {int(_GIB * size)}"
        )
    return spread(total, replicas)


def host_buffer(shape: Sequence[int], dtype: DType, device: Device) -> Buffer:
    """Allocates host memory that a device copies from and to by itself.

    It is pinned where the device is not the host. Nothing is known of its
    contents.

    Args:
        shape: The buffer's shape.
        dtype: Its elements.
        device: The device to copy from and to.
    """
    if device.is_host:
        return Buffer(dtype, shape, device)
    # The host never looks into it, so no access of the host needs to wait.
    return Buffer(dtype, shape, device, usage=Usage.STAGING | Usage.UNTRACKED)

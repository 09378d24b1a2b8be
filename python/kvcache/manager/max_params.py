"""MAX's parameters of a cache as ours, and ours as MAX's."""

from collections.abc import Sequence

from max.driver import Device
from max.dtype import DType
from max.graph import DeviceRef
from max.nn.kv_cache import KVCacheParams as MaxKVCacheParams
from max.nn.kv_cache import KVConnectorType, MHAKVCacheParams

from kvcache.errors import NotOfferedError
from kvcache.spec import KVCacheParams


def params_from_max(params: MaxKVCacheParams) -> KVCacheParams:
    """Returns MAX's parameters as ours.

    Args:
        params: Describes one cache of keys and values, or of latent vectors.

    Raises:
        NotOfferedError: If they ask for what this cache does not have.
    """
    _check_offered(params)
    is_mla = params.kv_dim == 1
    shards = 1 if is_mla else params.tensor_parallel_degree
    return KVCacheParams(
        params.dtype.name,
        params.n_kv_heads_per_device * shards,
        params.head_dim,
        enable_prefix_caching=params.enable_prefix_caching,
        page_size=params.page_size,
        n_devices=params.n_devices,
        is_mla=is_mla,
        data_parallel_degree=params.data_parallel_degree,
    )


def max_params_of(
    params: KVCacheParams,
    devices: Sequence[Device],
    *,
    num_layers: int,
    page_size: int,
) -> MaxKVCacheParams:
    """Returns our parameters as MAX's.

    Args:
        params: Shape of a token's keys and values.
        devices: Where the pages live.
        num_layers: Layers of the model.
        page_size: Tokens per page.

    Raises:
        NotOfferedError: If the pages hold latent vectors: MAX wants to know
            the query heads then. Or if they are quantised: MAX's graphs do not
            read our scales.
    """
    if params.quantization is not None:
        raise NotOfferedError(
            f"wanted pages that MAX's graphs read, got {params.quantization}"
        )
    if params.is_mla:
        raise NotOfferedError(
            "wanted a manager made with `from_max`, since MAX's parameters of "
            "a latent cache name the query heads, got our own parameters"
        )
    return MHAKVCacheParams(
        dtype=DType[params.dtype],
        n_kv_heads=params.n_kv_heads,
        head_dim=params.head_dim,
        num_layers=num_layers,
        devices=[DeviceRef.from_device(device) for device in devices],
        enable_prefix_caching=params.enable_prefix_caching,
        page_size=page_size,
        data_parallel_degree=params.data_parallel_degree,
    )


def _check_offered(params: MaxKVCacheParams) -> None:
    """Verifies that parameters ask for pages as this cache has them.

    Raises:
        NotOfferedError: If they do not.
    """
    if not isinstance(params, MaxKVCacheParams):
        raise NotOfferedError(
            f"wanted the parameters of one attention cache, got "
            f"{type(params).__name__}"
        )
    wanted = {
        "num_draft_tokens": 0,
        "quantized_kv_cache": False,
        "per_layer_buffers": False,
        "slots_per_page": params.page_size,
        "speculative_method": None,
        "window_size": None,
    }
    for name, value in wanted.items():
        if (got := getattr(params, name)) != value:
            raise NotOfferedError(
                f"{name} must be {value}, other values are not offered yet, "
                f"got {got}"
            )
    connector = params.kv_connector_config.type
    if connector != KVConnectorType.null:
        raise NotOfferedError(
            f"wanted no connector to other tiers, got {connector.value}"
        )

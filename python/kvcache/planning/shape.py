"""What a model keeps of a request, layer by layer."""

from dataclasses import dataclass, fields

from kvcache.errors import InvalidParamsError
from kvcache.planning.formats import KVFormat
from kvcache.spec import KVCacheParams


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLayers:
    """The attention layers that read the last tokens only.

    Raises:
        InvalidParamsError: If a number is not positive.
    """

    num_layers: int
    """How many layers do so."""
    tokens: int
    """Tokens that they read, the newest one among them."""

    def __post_init__(self) -> None:
        """Checks both numbers."""
        _check_positive(self, "num_layers", "tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentState:
    """What recurrent layers keep of a request, whatever its length.

    Raises:
        InvalidParamsError: If a number is out of range.
    """

    num_layers: int
    """Recurrent layers."""
    recurrent_bytes: int
    """Bytes of one layer's recurrent state, in float32."""
    conv_bytes: int = 0
    """Bytes of one layer's last inputs of the convolution."""
    num_shares: int = 1
    """Into how many equal parts the heads of a layer can be split."""

    def __post_init__(self) -> None:
        """Checks every number."""
        _check_positive(self, "num_layers", "recurrent_bytes", "num_shares")
        if self.conv_bytes < 0:
            raise InvalidParamsError(
                f"conv_bytes must not be negative, got {self.conv_bytes}"
            )

    @property
    def bytes_per_request(self) -> int:
        """Bytes of one request over all layers and devices."""
        return self.num_layers * (self.recurrent_bytes + self.conv_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What a model keeps of a request: pages, and maybe a state.

    Raises:
        InvalidParamsError: If a size is not positive, or more layers have a
            window than there are.
    """

    num_layers: int
    """Layers that keep keys and values of tokens: those of attention."""
    num_kv_heads: int
    """Key-value heads of a layer; not looked at where it keeps latents."""
    head_dim: int
    """Elements per head, or of a latent."""
    is_mla: bool = False
    """Whether one latent vector takes the place of keys and values."""
    window: WindowLayers | None = None
    """The layers among `num_layers` that read the last tokens only."""
    state: RecurrentState | None = None
    """What the other layers keep, if the model is a hybrid."""
    max_seq_len: int | None = None
    """Tokens that the model was made for, if that is known."""

    def __post_init__(self) -> None:
        """Checks every size."""
        _check_positive(self, "num_layers", "num_kv_heads", "head_dim")
        if self.max_seq_len is not None:
            _check_positive(self, "max_seq_len")
        if self.window and self.window.num_layers > self.num_layers:
            raise InvalidParamsError(
                f"wanted a window in at most {self.num_layers} layers, got "
                f"one in {self.window.num_layers}"
            )

    def params(
        self,
        kv_format: KVFormat,
        *,
        page_size: int,
        n_devices: int = 1,
        host_memory: int | None = None,
    ) -> KVCacheParams:
        """Returns the parameters that a manager of this cache is made with.

        Args:
            kv_format: What keys and values are kept in.
            page_size: Tokens per page.
            n_devices: Devices that share the heads.
            host_memory: Bytes for pages that are swapped to the host.

        Raises:
            InvalidParamsError: If a manager would refuse them, or the devices
                cannot share the recurrent heads.
        """
        state = self.state
        if state and n_devices > 0 and state.num_shares % n_devices:
            raise InvalidParamsError(
                f"wanted recurrent layers that {n_devices} devices can share, "
                f"got {state.num_shares} equal shares of their heads"
            )
        has_host = host_memory is not None
        return KVCacheParams(
            kv_format.dtype,
            self.num_kv_heads,
            self.head_dim,
            enable_prefix_caching=has_host,
            enable_kvcache_swapping_to_host=has_host,
            host_kvcache_swap_space_gb=(
                None if host_memory is None else host_memory / 2**30
            ),
            page_size=page_size,
            n_devices=n_devices,
            is_mla=self.is_mla,
            quantization=kv_format.quantization,
            summaries=kv_format.summaries,
        )


def _check_positive(
    value: ModelShape | RecurrentState | WindowLayers, *names: str
) -> None:
    assert {*names} <= {field.name for field in fields(value)}
    for name in names:
        if (number := getattr(value, name)) < 1:
            raise InvalidParamsError(f"{name} must be positive, got {number}")

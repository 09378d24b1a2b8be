"""How keys and values of 8 bits are scaled."""

from dataclasses import dataclass
from enum import StrEnum

from kvcache.errors import InvalidParamsError

QUANTIZED_DTYPES = ("float8_e4m3fn", "float8_e5m2", "int8")
"""The element types, by name, that are kept with scales."""

SCALE_BYTES = 4
"""Bytes of a scale: they are float32."""

_GROUP_SIZES = (8, 16, 32, 64, 128, 256)

LONGEST_LATENT_GROUP = 256
"""The most elements of a latent that share a scale: a GPU's warp takes them."""


class Granularity(StrEnum):
    """Which elements of a pool share a scale."""

    TENSOR = "tensor"
    """All keys of a layer share one, and all values."""
    HEAD = "head"
    """All keys of a layer's head share one, and all values."""
    TOKEN = "token"  # noqa: S105  (no password)
    """Each group of elements of one token's head shares one."""

    @property
    def number(self) -> int:
        """What kernels call it."""
        return 1 + list(Granularity).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """Which elements of quantised pages share a scale.

    With `TOKEN` a store takes each scale from the numbers that share it. With
    the others the caller gives the scales of a layer to every store, measured
    beforehand; over the life of a pool they must stay the same, because a page
    has one for all its tokens.

    Raises:
        InvalidParamsError: If the granularity is unknown, or a group size is
            given without `TOKEN`.
    """

    granularity: Granularity = Granularity.TOKEN
    """Which elements share a scale; its name may be given."""
    group_size: int | None = None
    """Elements of a head that share a scale; by default all of them.

    Else it is a power of two from 8 on that divides the head.
    """

    def __post_init__(self) -> None:
        """Keeps the granularity as such and checks the group size."""
        if self.granularity not in list(Granularity):
            raise InvalidParamsError(
                f"granularity must be one of {', '.join(Granularity)}, got "
                f"{self.granularity!r}"
            )
        chosen = Granularity(self.granularity)
        object.__setattr__(self, "granularity", chosen)
        if self.group_size is not None and chosen is not Granularity.TOKEN:
            raise InvalidParamsError(
                f"group_size wants granularity token, got {chosen}"
            )

    def scales_per_page(
        self, *, page_size: int, num_kv_heads: int, head_dim: int
    ) -> tuple[int, int, int]:
        """Returns the shape of a page's scales for one layer's keys.

        Args:
            page_size: Tokens per page.
            num_kv_heads: Key-value heads on one device.
            head_dim: Elements per head.

        Returns:
            How many tokens, heads, and groups of a head have their own.

        Raises:
            InvalidParamsError: If a head cannot have such groups.
        """
        if self.granularity is Granularity.TENSOR:
            return 1, 1, 1
        if self.granularity is Granularity.HEAD:
            return 1, num_kv_heads, 1
        group_size = head_dim if self.group_size is None else self.group_size
        if group_size not in (wanted := group_sizes(head_dim)):
            raise InvalidParamsError(
                f"group_size must be one of {wanted} for a head_dim of"
                f" {head_dim}, got {group_size}"
            )
        return page_size, num_kv_heads, head_dim // group_size

    def check_latents(self, latent_dim: int) -> None:
        """Verifies that latents can be kept so.

        Args:
            latent_dim: Elements of a latent.

        Raises:
            InvalidParamsError: If tokens have no scales of their own, or a
                group is too long.
        """
        longest = LONGEST_LATENT_GROUP
        if self.granularity is not Granularity.TOKEN:
            raise InvalidParamsError(
                f"latents want granularity token, got {self.granularity}"
            )
        if (size := self.group_size or latent_dim) > longest:
            raise InvalidParamsError(
                f"latents want a group_size of at most {longest}, got {size}"
            )


def group_sizes(head_dim: int) -> list[int]:
    """Returns how many elements of a head may share a scale.

    Args:
        head_dim: Elements per head.

    Returns:
        The powers of two from 8 on that divide the head, and all of it.
    """
    parts = [size for size in _GROUP_SIZES if head_dim % size == 0]
    return sorted({*parts, head_dim})

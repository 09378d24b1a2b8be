"""What prefixes are looked up by."""

from collections.abc import Iterator, Sequence


class RadixKey:
    """Token ids, and the namespace that they are of.

    Keys of different namespaces never share a prefix, whatever their tokens.
    Neither is ever printed.

    Args:
        token_ids: The ids, `[num_tokens]`; a list, or an array of integers.
        extra_key: The namespace: an adapter, a salt, an image's hash.
    """

    __slots__ = ("extra_key", "token_ids")

    def __init__(
        self, token_ids: Sequence[int], extra_key: str | None = None
    ) -> None:
        """Keeps both as they are."""
        self.token_ids = token_ids
        self.extra_key = extra_key

    def __len__(self) -> int:
        """Returns the number of tokens."""
        return len(self.token_ids)

    def __iter__(self) -> Iterator[int]:
        """Yields the token ids."""
        return iter(self.token_ids)

    def __getitem__(self, place: int | slice) -> "RadixKey":
        """Returns the key of some of the tokens, of the same namespace."""
        if isinstance(place, slice):
            return RadixKey(self.token_ids[place], self.extra_key)
        return RadixKey([self.token_ids[place]], self.extra_key)

    def __repr__(self) -> str:
        """Says how long the key is."""
        return f"RadixKey(num_tokens={len(self)})"

"""A keyed digest of 128 bits; it finds pages and never decides.

NH, the universal hash of UMAC and VMAC, over the parent's digest and the
page's token ids: messages of one length collide with a chance of 2**-64 for
whoever does not know the key. Equal tokens are compared before a page is used,
so a collision costs time and nothing else.
"""

from .memory import Ptr

comptime PARENT_WORDS = 2
"""Words of a message that hold the digest before it."""


def key_words(page_size: Int) -> Int:
    """Returns the 64-bit words of a key.

    Args:
        page_size: Tokens per page.

    Returns:
        The words: two for the parent's digest, and an even number that covers
        the tokens, two of them a word.
    """
    return PARENT_WORDS + 2 * ((page_size + 3) // 4)


struct Digest(Equatable, TrivialRegisterPassable):
    """What stands for a page's tokens and all that precede them."""

    var low: UInt64
    """The lower half."""
    var high: UInt64
    """The upper half."""

    def __init__(out self, low: UInt64, high: UInt64):
        """Puts the halves together.

        Args:
            low: The lower half.
            high: The upper half.
        """
        self.low = low
        self.high = high

    def __eq__(self, other: Self) -> Bool:
        """Returns whether two digests are equal.

        Args:
            other: The other one.

        Returns:
            Whether they are.
        """
        return self.low == other.low and self.high == other.high

    def mixed(self) -> UInt64:
        """Returns 64 bits whose upper ones depend on all others.

        Returns:
            The bits.
        """
        return (self.low ^ self.high) * 0x9E3779B97F4A7C15


def _product(a: UInt64, b: UInt64) -> UInt128:
    return a.cast[DType.uint128]() * b.cast[DType.uint128]()


def page_digest(
    parent: Digest, tokens: Ptr[Int32], page_size: Int, key: Ptr[UInt64]
) -> Digest:
    """Returns the digest of a page.

    Args:
        parent: The digest of what precedes the page.
        tokens: The page's token ids, `[page_size]`, followed by memory that
            may be read up to a multiple of four tokens.
        page_size: Tokens per page.
        key: The key, `[key_words(page_size)]`.

    Returns:
        The digest.
    """
    var sum = _product(
        parent.low + key[unsafe_offset=0], parent.high + key[unsafe_offset=1]
    )
    var words = tokens.unsafe_bitcast[UInt64]()
    var keys = key.unsafe_offset(PARENT_WORDS)
    var whole = page_size // 4
    for i in range(whole):
        sum += _product(
            words[unsafe_offset=2 * i] + keys[unsafe_offset=2 * i],
            words[unsafe_offset=2 * i + 1] + keys[unsafe_offset=2 * i + 1],
        )
    if page_size % 4 != 0:
        sum += _rest(tokens, page_size, keys)
    return Digest(sum.cast[DType.uint64](), (sum >> 64).cast[DType.uint64]())


def wide_page_digest(
    parent: Digest, tokens: Ptr[Int64], page_size: Int, key: Ptr[UInt64]
) -> Digest:
    """Returns the digest of a page whose token ids have 64 bits each.

    Args:
        parent: The digest of what precedes the page.
        tokens: The page's token ids, `[page_size]`; they fit 32 bits.
        page_size: Tokens per page, a multiple of four.
        key: The key, `[key_words(page_size)]`.

    Returns:
        What `page_digest` returns of the same ids.
    """
    var sum = _product(
        parent.low + key[unsafe_offset=0], parent.high + key[unsafe_offset=1]
    )
    var halves = tokens.unsafe_bitcast[UInt32]()
    var keys = key.unsafe_offset(PARENT_WORDS)
    for i in range(page_size // 4):
        sum += _product(
            _word(halves, 4 * i) + keys[unsafe_offset=2 * i],
            _word(halves, 4 * i + 2) + keys[unsafe_offset=2 * i + 1],
        )
    return Digest(sum.cast[DType.uint64](), (sum >> 64).cast[DType.uint64]())


@always_inline
def _word(halves: Ptr[UInt32], token: Int) -> UInt64:
    """Returns two neighbouring ids of 64 bits as one word."""
    var low = halves[unsafe_offset=2 * token].cast[DType.uint64]()
    var high = halves[unsafe_offset=2 * token + 2].cast[DType.uint64]()
    return low | (high << 32)


def _rest(tokens: Ptr[Int32], page_size: Int, keys: Ptr[UInt64]) -> UInt128:
    """Returns the part of the tokens behind the last multiple of four."""
    var first = page_size // 4 * 4
    var low: UInt64 = 0
    var high: UInt64 = 0
    for i in range(first, page_size):
        var token = tokens[unsafe_offset=i].cast[DType.uint32]()
        var word = token.cast[DType.uint64]() << UInt64(32 * (i & 1))
        if i - first < 2:
            low |= word
        else:
            high |= word
    return _product(
        low + keys[unsafe_offset=first // 2],
        high + keys[unsafe_offset=first // 2 + 1],
    )

"""What Python calls for digests alone; for measurements and keys."""

from std.python import PythonObject

from kvcore.digest import Digest, key_words, page_digest, wide_page_digest
from kvcore.memory import at_address, release_memory, zeroed
from kvcore.tokens import Tokens


def digest_pages(config: PythonObject) raises -> PythonObject:
    """Writes the chained digests of a row of tokens; for measurements.

    Args:
        config: Address of six 64-bit numbers: the address of token ids that
            fit 32 bits, how many pages, the page size, the key's address, that
            of the digests, two 64-bit words a page, and bytes of an id.

    Returns:
        None.

    Raises:
        If the argument is no number.
    """
    var numbers = at_address[Int64](Int(py=config))
    var pages = Int(numbers[unsafe_offset=1])
    var size = Int(numbers[unsafe_offset=2])
    var tokens = Tokens(
        address=Int(numbers[unsafe_offset=0]),
        length=pages * size,
        width=Int(numbers[unsafe_offset=5]),
    )
    var key = at_address[UInt64](Int(numbers[unsafe_offset=3]))
    var digests = at_address[Digest](Int(numbers[unsafe_offset=4]))
    var digest = Digest(0, 0)
    var kept = zeroed[Int32](size + 4)
    for page in range(pages):
        if tokens.is_wide and size % 4 == 0:
            var ids = at_address[Int64](tokens.address)
            digest = wide_page_digest(
                digest, ids.unsafe_offset(page * size), size, key
            )
        else:
            tokens.copy_to(kept, page * size, size)
            digest = page_digest(digest, kept, size, key)
        digests[unsafe_offset=page] = digest
    release_memory(kept)
    return PythonObject(None)


def count_key_words(page_size: PythonObject) raises -> PythonObject:
    """Returns the 64-bit words of a digest's key.

    Args:
        page_size: Tokens per page.

    Returns:
        How many.

    Raises:
        If the argument is no number.
    """
    return PythonObject(key_words(Int(py=page_size)))

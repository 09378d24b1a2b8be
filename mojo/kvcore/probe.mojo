"""Says what is cached of a prompt, and what is not any more."""

from .core import Core, Move
from .index import NO_PAGE
from .memory import Ptr
from .page import NO_LINK, ROOT, link_to, linked
from .tokens import Tokens


def probe(mut core: Core, namespace: Int, tokens: Tokens) -> Int:
    """Finds the pages of a prompt; its last token may be a hit here.

    Args:
        core: The core; the pages found are left in its `hits`.
        namespace: Where the prompt begins; -1 for one that nobody used.
        tokens: The prompt.

    Returns:
        The tokens that some page behind those found begins with.
    """
    core.hits.length = 0
    if namespace < 0 or not core.is_caching:
        return 0
    var parent = ROOT | UInt32(namespace)
    var first = 0
    while first + core.page_size <= tokens.length:
        var page = core.index.find(parent, tokens, first)
        if page == NO_PAGE:
            break
        core.hits.push(UInt32(page))
        parent = link_to(page)
        first += core.page_size
    return _longest(core, parent, tokens, first)


def evicted_at(
    mut core: Core, namespace: Int, tokens: Tokens, times: Ptr[Float64]
):
    """Writes when each whole page of a prompt was evicted last.

    Args:
        core: The core.
        namespace: Where the prompt begins.
        tokens: The prompt; its ids fit 32 bits.
        times: The clock at that time or -1, `[length // page_size]`.
    """
    var digest = core.index.namespaces[namespace].digest
    for page in range(tokens.length // core.page_size):
        digest = core.index.digest_of_tokens(
            digest, tokens, page * core.page_size
        )
        times[unsafe_offset=page] = core.ghosts.find(digest)


def _longest(core: Core, parent: UInt32, tokens: Tokens, first: Int) -> Int:
    var most = min(tokens.length - first, core.page_size)
    var longest = 0
    var link = core.index.first_child(parent)
    while link != NO_LINK:
        var kept = core.index.tokens_of(linked(link))
        longest = max(longest, tokens.common(first, kept, most))
        link = core.pages[unsafe_offset=linked(link)].elder
    return longest

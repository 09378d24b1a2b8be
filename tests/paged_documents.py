"""Documents of each class, for tests that read and spoil them."""

import numpy as np

from kvcache.paged_attention import (
    Mesh,
    PagedAttentionCache,
    PagedAttentionCacheView,
    PageQuantizer,
    PartitionSpec,
)
from kvcache.quantization import Quantization
from paged_caches import prefill, sizes


def small() -> PagedAttentionCacheView:
    """A view of two shards, with scales, that is short when written down."""
    metadata = sizes(num_pages_per_layer=2, page_size=12, dtype="bfloat16")
    return PagedAttentionCacheView.init(
        Mesh([["cpu"], ["cpu"]], ("dp", "tp")),
        metadata,
        1,
        PageQuantizer("float8_e4m3fn", Quantization(group_size=8)),
        PartitionSpec(("tp",), "dp"),
        backend="numpy",
    )


METADATA = sizes(quantizer=PageQuantizer("int8"))
STEP = prefill(6, [8, 2]).replace(prefill_length=np.uint64(6))
CACHE = PagedAttentionCache([small(), None])
DOCUMENTS = [METADATA, STEP, small(), CACHE]

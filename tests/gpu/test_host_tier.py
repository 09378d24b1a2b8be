"""Pages of a GPU that go to pinned host memory and come back."""

from max.driver import Accelerator

from host_contents import check_contents_come_back
from kvcache.summaries import Summaries, SummaryField


def test_contents_come_back() -> None:
    check_contents_come_back(Accelerator())


def test_summaries_come_back() -> None:
    """Also those of 24 bytes a page, which the GPU does not move itself."""
    fields = (
        SummaryField("centroid", 1, 8, "float32"),
        SummaryField("envelope", 2, 8, "float16"),
        SummaryField("norm", 1, 1, "float32"),
    )
    check_contents_come_back(Accelerator(), summaries=Summaries(16, fields))

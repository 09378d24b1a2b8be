import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import REGIMES, Batch, batches, regimes
from kernels.checks import check_attention
from kernels.models import Kernels


@pytest.mark.parametrize("regime", REGIMES)
def test_attention_equals_reference_at_the_edges(
    kernels: Kernels, regime: str
) -> None:
    batch = regimes(kernels.configuration.page_size)[regime]
    for rules in kernels.configuration.rules:
        check_attention(kernels, batch, rules)


def test_attention_over_parts_of_a_context_equals_reference(
    kernels: Kernels,
) -> None:
    # So many products are worth several tasks under every configuration.
    lengths = [(3, 1), (900, 15), (0, 2), (500, 15), (40, 1)]
    page_size = kernels.configuration.page_size
    batch = Batch(lengths=lengths, page_size=page_size, seed=3)
    for rules in kernels.configuration.rules:
        check_attention(kernels, batch, rules)


@given(st.data())
@settings(max_examples=60)
def test_attention_equals_reference(
    kernels: Kernels, data: st.DataObject
) -> None:
    batch = data.draw(batches(kernels.configuration, longest_new=40))
    rules = data.draw(st.sampled_from(kernels.configuration.rules))
    check_attention(kernels, batch, rules)

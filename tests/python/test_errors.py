import pickle

import pytest

from kvcache import errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.InsufficientPagesError, RuntimeError),
        (errors.RequestTooLargeError, errors.InsufficientPagesError),
        (errors.InsufficientMemoryError, RuntimeError),
        (errors.MemoryBudgetError, RuntimeError),
        (errors.MemoryBudgetError, ValueError),
        (errors.DocumentError, ValueError),
        (errors.SequenceTooLongError, RuntimeError),
        (errors.InvalidParamsError, ValueError),
        (errors.NotOfferedError, ValueError),
        (errors.ClaimError, ValueError),
        (errors.RequestStateError, ValueError),
        (errors.RetentionError, ValueError),
        (errors.PageStateError, ValueError),
        (errors.PinLimitError, RuntimeError),
        (errors.UnknownPinError, KeyError),
        (errors.UnknownRequestError, KeyError),
        (errors.UnknownRequestError, ValueError),
        (errors.UnknownReplicaError, IndexError),
        (errors.MissingPackageError, ImportError),
        (errors.ResetNotDeliveredError, TimeoutError),
        (errors.SlotRangeError, IndexError),
        (errors.SlotStateError, ValueError),
        (errors.TensorMismatchError, RuntimeError),
        (errors.DeviceNotAvailableError, RuntimeError),
        (errors.DriverError, RuntimeError),
    ],
)
def test_an_error_is_ours_and_the_builtin_of_the_seed(
    error: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(error, errors.KVCacheError)
    assert issubclass(error, builtin)


def test_a_shortage_names_both_counts() -> None:
    error = errors.InsufficientPagesError(wanted=2, free=1)
    assert str(error) == "wanted 2 pages, 1 free"
    assert (error.wanted, error.free) == (2, 1)
    assert errors.InsufficientBlocksError is errors.InsufficientPagesError


def test_a_request_too_large_for_the_pool_says_so() -> None:
    error = errors.RequestTooLargeError(wanted=9, free=8)
    assert str(error) == "wanted 9 pages for one request, the pool has 8"


@pytest.mark.parametrize(
    "kind", [errors.InsufficientPagesError, errors.RequestTooLargeError]
)
def test_a_shortage_survives_pickling(
    kind: type[errors.InsufficientPagesError],
) -> None:
    error = pickle.loads(pickle.dumps(kind(wanted=2, free=1)))
    assert type(error) is kind
    assert (error.wanted, error.free, str(error)) == (
        2,
        1,
        str(kind(wanted=2, free=1)),
    )


def test_an_unknown_request_reads_without_quotes() -> None:
    assert str(errors.UnknownRequestError("request 7")) == "request 7"
    assert str(errors.UnknownPinError("pin 7")) == "pin 7"

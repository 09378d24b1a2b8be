"""ZeroMQ, which only who wants reset requests needs."""

from types import ModuleType

from kvcache.errors import MissingPackageError


def zeromq() -> ModuleType:
    """Returns the module `zmq`.

    Raises:
        MissingPackageError: If it is not installed.
    """
    try:
        import zmq
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "wanted the package `pyzmq`, which is not installed: it comes "
            "with the extra `kvcache[zmq]`"
        ) from error
    return zmq

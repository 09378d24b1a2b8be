"""Which core serves: the native one, or the plain one with one warning."""

import warnings
from collections.abc import Iterator

import pytest

from kvcache.core import making
from kvcache.core.interface import CacheCore
from kvcache.core.making import PlainCoreWarning, make_core
from kvcache.core.native import NativeCore
from kvcache.core.plain import PlainCore
from kvcache.errors import InvalidParamsError
from kvcache.mojo_sources import MojoCompileError


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test as in a new process."""
    monkeypatch.delenv("KVCACHE_CORE", raising=False)
    making._is_there.cache_clear()
    yield
    making._is_there.cache_clear()


def lose_the_extension(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def absent() -> None:
        raise error

    monkeypatch.setattr(making, "extension", absent)


def made() -> CacheCore:
    return make_core(4, 16, 2)


def test_native_core_serves() -> None:
    assert isinstance(made(), NativeCore)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("no sources"),
        MojoCompileError("no C compiler"),
        ImportError("not for this machine"),
    ],
    ids=str,
)
def test_without_it_the_plain_core_serves_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    lose_the_extension(monkeypatch, error)
    with pytest.warns(PlainCoreWarning, match=str(error)) as caught:
        core = made()
    assert isinstance(core, PlainCore)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(made(), PlainCore)
    core.claim(b"")  # It works.
    assert core.num_free == 4


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    lose_the_extension(monkeypatch, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        made()


def test_the_environment_asks_for_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KVCACHE_CORE", "plain")
    assert isinstance(made(), PlainCore)
    monkeypatch.setenv("KVCACHE_CORE", "native")
    assert isinstance(made(), NativeCore)


def test_who_asks_for_the_native_core_is_told_why_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent() -> None:
        raise MojoCompileError("no C compiler")

    monkeypatch.setattr("kvcache.core.native.extension", absent)
    monkeypatch.setenv("KVCACHE_CORE", "native")
    with pytest.raises(MojoCompileError, match="no C compiler"):
        made()


def test_another_word_in_the_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KVCACHE_CORE", "rust")
    with pytest.raises(InvalidParamsError, match="rust"):
        made()


def test_a_digest_in_python_takes_the_plain_core() -> None:
    core = make_core(
        4, 16, 2, enable_prefix_caching=True, digest=lambda _, __: b""
    )
    assert isinstance(core, PlainCore)

"""The pytest plugin of llmcache: every test is one of its own, and three fixtures.

It lies outside of the package because pytest loads it in every project that shares its environment with llmcache: with
it come neither Django nor the package, until a test uses a fixture or a project has the app installed. Under the name
``llmcache.testing.pytest_plugin`` it can be loaded by ``-p`` where plugins are not found by themselves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

if TYPE_CHECKING:
    from llmcache import testing

_OPTION: Final = "--llmcache-record"
_VARIABLE: Final = "LLMCACHE_RECORD"
_MARKER: Final = "llmcache_cassette"
_FIXTURE: Final = "llmcache_cassette"
_before = pytest.StashKey[str | None]()
_failed = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that has cassettes recorded."""
    group = parser.getgroup("llmcache")
    try:
        group.addoption(
            _OPTION,
            metavar="MODE",
            nargs="?",
            const="new",
            default=None,
            help="record providers' answers in cassettes: 'new' what is missing (so without MODE), 'all' whatever is "
            "asked for, 'none' nothing.",
        )
    except ValueError:
        # Loaded by -p too, under its other name.
        return


def pytest_configure(config: pytest.Config) -> None:
    """Let cassettes know how the run records; one that cannot be used ends it."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(name=None, *, shared=False, strict=False, redact=None): play what a provider answered once, and "
        "record it with --llmcache-record; see llmcache.testing.cassette.",
    )
    told = config.getoption(_OPTION, None)
    if told is not None and _before not in config.stash:
        config.stash[_before] = os.environ.get(_VARIABLE)
        # The variable reaches the cassettes that are not made by the fixture.
        os.environ[_VARIABLE] = told
    if os.environ.get(_VARIABLE, "none") != "none":
        from llmcache.testing.cassettes import modes
        from llmcache.testing.cassettes.errors import CassetteError

        try:
            modes.mode_of(None)
        except CassetteError as error:
            _forget_option(config)
            raise pytest.UsageError(str(error)) from None


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave the environment as it was."""
    _forget_option(config)


def _forget_option(config: pytest.Config) -> None:
    if _before not in config.stash:
        return
    before = config.stash[_before]
    del config.stash[_before]
    if before is None:
        os.environ.pop(_VARIABLE, None)
    else:
        os.environ[_VARIABLE] = before


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give what is marked its cassette: a method of a ``TestCase`` cannot ask for a fixture."""
    for item in items:
        names: list[str] | None = getattr(item, "fixturenames", None)
        if names is not None and _FIXTURE not in names and item.get_closest_marker(_MARKER) is not None:
            # Before the test's own fixtures, so that what they ask for is played too.
            at = _first_of_the_test(item, names)
            # In a list of its own: all tests of a parametrized function share one.
            cast("Any", item).fixturenames = [*names[:at], _FIXTURE, *names[at:]]


def _first_of_the_test(item: Any, names: list[str]) -> int:
    """Return where the fixtures begin that are a test's alone: those of wider scope belong to no test."""
    known = item._fixtureinfo.name2fixturedefs
    scopes = [known[name][-1].scope if name in known else "session" for name in names]
    return scopes.index("function") if "function" in scopes else len(names)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Forget what became of the test before: it may be run again."""
    _note(item, failed=False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note that a test has failed, or was skipped: its cassette is then neither complained of nor trimmed.

    The report says so of a method of a ``TestCase`` too, which raises nothing.
    """
    report = yield
    if report.outcome != "passed":
        _note(item, failed=True)
    return report


def _note(item: pytest.Item, *, failed: bool) -> None:
    item.stash[_failed] = failed
    # For the cassettes that are not made by the fixture; where it is not loaded there are none.
    outcomes = sys.modules.get("llmcache.testing.cassettes.outcomes")
    if outcomes is not None:
        outcomes.note(failed=failed)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(request: pytest.FixtureRequest) -> None:
    """Begin the test with the first fixture that is its alone.

    What a class, module or session sets up comes before, and is no test's: it would be seen by that test alone which
    happens to run first.
    """
    if request.scope == "function":
        _begin()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Begin a test without fixtures."""
    _begin()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Generator[None, Any, Any]:
    """End the test when its fixtures are cleaned up."""
    try:
        return (yield)
    finally:
        if _is_installed():
            from llmcache.engine import isolation

            isolation.end_test()


def _begin() -> None:
    """Make the running test one of its own to llmcache, in a project that has the app."""
    if _is_installed():
        from llmcache.engine import isolation

        if not isolation.has_begun():
            isolation.begin_test()


def _is_installed() -> bool:
    """Return whether Django is set up with the app; Django is not loaded for it."""
    module = sys.modules.get("django.apps")
    return module is not None and module.apps.ready and module.apps.is_installed("llmcache")


@pytest.fixture
def llmcache_fake() -> Iterator[testing.Fake]:
    """A fake provider, which answers in the place of all providers what the test teaches it."""
    from llmcache.testing import fake

    with fake() as made:
        yield made


@pytest.fixture
def assert_provider_calls() -> type[testing.assert_provider_calls]:
    """``with assert_provider_calls(n):`` fails unless n attempts leave for a provider in the block."""
    from llmcache.testing import assert_provider_calls

    return assert_provider_calls


@pytest.fixture
def llmcache_redact() -> Callable[[str], str] | None:
    """What returns a text as it may be recorded in ``llmcache_cassette``; to be overridden."""
    return None


@pytest.fixture
def llmcache_cassette(
    request: pytest.FixtureRequest, llmcache_redact: Callable[[str], str] | None
) -> Iterator[testing.Cassette]:
    """What a provider answered once, played from a file of this test's own, or from the one that the mark names."""
    from llmcache.testing import Cassette
    from llmcache.testing.cassettes import places

    item: Any = request.node
    told = item.get_closest_marker(_MARKER)
    arguments = _arguments(*((), {}) if told is None else (told.args, told.kwargs))
    name = arguments.pop("name")
    names = [each.name for each in item.listchain() if isinstance(each, pytest.Class)]
    path = places.of_test(item.path, [*names, item.name]) if name is None else places.named(name, item.path)
    cassette = Cassette(path, **{"redact": llmcache_redact, **arguments})
    with cassette:
        try:
            yield cassette
        finally:
            cassette.close(failed=item.stash.get(_failed, False))


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return what a mark says; as a function's call would be, a wrong one is a TypeError."""

    def read(name: Any = None, **options: Any) -> dict[str, Any]:
        unknown = options.keys() - {"shared", "strict", "redact"}
        if unknown:
            raise TypeError(f"The mark {_MARKER} takes name, shared, strict and redact, not {min(unknown)!r}.")
        return {"name": name, **options}

    return read(*args, **kwargs)

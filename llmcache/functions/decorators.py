"""``@cached``: a function's values kept as a provider's answers are, by its arguments.

Found in memory is what nearly all calls want: that is here. ``calls`` does all else, and is loaded by the
first call that memory does not answer.
"""

from __future__ import annotations

import inspect

# The public twin raises where there is no loop, which would cost a hit 0.3 µs.
from asyncio import _get_running_loop as running_loop  # pyright: ignore[reportPrivateUsage]
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
)
from datetime import timedelta
from functools import partial, update_wrapper
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    NamedTuple,
    NoReturn,
    ParamSpec,
    TypeVar,
    cast,
    overload,
)

from asgiref.sync import markcoroutinefunction, sync_to_async

from llmcache import request
from llmcache.engine import process
from llmcache.exceptions import AsyncContext, InvalidRequest
from llmcache.functions.definitions import annotation_of, function_of, is_method, module_of, require_no_hidden, shape_of
from llmcache.hits import LOOKED, NO_HIT, known_hit
from llmcache.request import NOT_GIVEN, CacheUse, NotGiven

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime
    from llmcache.functions.calls import Ready
    from llmcache.prepared import Prepared

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")

MAX_KNOWN: Final = 1_024
"""Arguments of one function whose keys are remembered."""
MAX_KNOWN_CHARACTERS: Final = 2**20
_PLAIN: Final = frozenset({str, int, bool, bytes, type(None)})
"""Types of arguments that are remembered: equal ones of one type are one key. 0.0 and -0.0 are equal, and are not."""
_OWN: Final = ("tenant", "subject", "tags")
_TENANT: Final = request.OPTIONS.index("tenant")

Tell = Callable[..., Any]
_Asked = tuple[bytes, dict[str, Any]]
"""What stands for a call's arguments in its key, and its options."""


class CacheInfo(NamedTuple):
    """What ``functools.lru_cache`` tells of a function."""

    hits: int
    """Calls of this process that the cache has answered, from whatever tier."""
    misses: int
    """Calls of this process for which the function ran."""
    maxsize: int | None
    """None: memory has a budget of bytes, for all functions together."""
    currsize: int
    """Values of the function that lie in this process's memory."""


class Work(NamedTuple):
    """A call of the function that is yet to be made."""

    run: Callable[[], Any]
    has_changed: Callable[[], bool]
    """Tells whether the arguments are others by now than those that the key was made of."""


class _Given(NamedTuple):
    """What a project has said of a function to ``cached``."""

    options: dict[str, Any]
    tells: dict[str, Tell]
    """Those options that follow from the arguments."""
    key: Tell | None


class Cached(Generic[P, R]):
    """A function whose values are kept. Called as the function is."""

    __wrapped__: Callable[P, R]

    def __init__(self, function: Callable[P, R], given: _Given) -> None:
        self._function: Any = function
        self._given = given
        self._shape = shape_of(function)
        self._signature = inspect.signature(function)
        self._name = f"{module_of(self._function)}.{function.__qualname__}"
        self._kind = str(given.options.get("kind", getattr(function, "__name__", "function")))[:100]
        self._method = is_method(self._signature, function.__qualname__)
        if given.key is None and "version" not in given.options:
            require_no_hidden(function, Cached)
        self._annotation = annotation_of(self._function, self._shape)
        self._ready: Ready | None = None
        self._known: dict[Any, tuple[Prepared, bytes]] = {}
        self._characters = 0
        self._cleared: tuple[Any, int, int] = (None, 0, 0)
        update_wrapper(cast("Any", self), function)
        if self._shape == "async":
            markcoroutinefunction(cast("Any", self))
        self._way: Callable[[tuple[Any, ...], dict[str, Any]], Any] = {
            "sync": self._sync,
            "async": self._async,
            "generator": self._iterate,
            "async generator": self._aiterate,
        }[self._shape]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the function does, from the cache where its value lies there."""
        return self._way(args, kwargs)

    # Below ``@classmethod`` both ways lead to the class.
    @overload
    def __get__(self: Cached[Concatenate[type[S], Q], R], instance: S | None, owner: type[S]) -> Bound[Q, R]: ...
    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Cached[P, R]: ...
    @overload
    def __get__(self: Cached[Concatenate[S, Q], R], instance: S, owner: type | None = None) -> Bound[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else Bound(cast("Any", self), instance)

    def __repr__(self) -> str:
        return f"<cached function {self._name}>"

    def __reduce__(self) -> str:
        # By its name, as functions are: for other processes, and for copies.
        return self._function.__qualname__

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key of the value for these arguments, in hex."""
        ready, content, options = self._asked(process.current(), args, kwargs)
        return ready.call(content, options, self._work(args, kwargs, content), awaited=False).key.hex()

    def bypass(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the function does, and touch no tier."""
        return self._function(*args, **kwargs)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Make the value for these arguments void, here and in other processes; as ``llmcache.invalidate`` does."""
        from llmcache.invalidation import invalidate

        self._require_no_loop("invalidate")
        invalidate(key=self.key(*args, **kwargs))

    async def ainvalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Do as ``invalidate``, awaited."""
        await sync_to_async(self.invalidate)(*args, **kwargs)

    def cache_info(self) -> CacheInfo:
        """Return how often this process has hit and missed, and how many values lie in its memory."""
        now = process.current()
        hits, misses = self._counted(now)
        _, hits_before, misses_before = self._cleared if self._cleared[0] is now.counts else (None, 0, 0)
        return CacheInfo(hits - hits_before, misses - misses_before, None, self._held(now))

    def cache_clear(self) -> None:
        """Make all values of the function void, here and in other processes, and begin to count anew."""
        from llmcache.invalidation import invalidate

        self._require_no_loop("cache_clear")
        now = process.current()
        invalidate(model=self._model)
        self._forget(now)
        self._cleared = (now.counts, *self._counted(now))

    async def acache_clear(self) -> None:
        """Do as ``cache_clear``, awaited."""
        await sync_to_async(self.cache_clear)()

    def _require_no_loop(self, method: str) -> None:
        if running_loop() is not None:
            raise AsyncContext(
                f"{self._name}.{method}() was called in a thread whose event loop is running, and would stop it. Await "
                f".a{method}() instead."
            )

    @property
    def _model(self) -> str:
        return f"function/{self._name}"

    def _counted(self, now: Runtime) -> tuple[int, int]:
        hits = misses = 0
        for (_, model, _, outcome), count in now.counts.total().items():
            if model == self._model:
                hits += count if outcome in ("hit", "stale", "collapsed") else 0
                misses += count if outcome in ("miss", "bypass", "error") else 0
        return hits, misses

    def _held(self, now: Runtime) -> int:
        return 0 if now.memory is None else sum(self._is_own(held.entry.meta) for held in now.memory.items())

    def _forget(self, now: Runtime) -> None:
        # They are void by now; so many bytes less.
        if now.memory is not None:
            for held in now.memory.items():
                if self._is_own(held.entry.meta):
                    now.memory.delete(held.entry.key)

    def _is_own(self, meta: bytes) -> bool:
        import json

        return b'"asked":' + json.dumps(self._model).encode() in meta

    # -- calls

    def _sync(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if running_loop() is not None:
            _raise_async_context(self._name)
        now = process.current()
        lookup, value = self._in_memory(now, args, kwargs, in_memory=False)
        if value is not NO_HIT and value is not LOOKED:
            return value
        from llmcache.functions.calls import answer

        ready, content, options = self._asked(now, args, kwargs)
        work = self._work(args, kwargs, content)
        call = ready.call(content, options, work, awaited=False)
        self._keep(lookup, ready.prepared(call), call.key)
        return answer(ready, call, work, looked=value is LOOKED)

    def _async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        try:
            now = process.current_if_made()
            lookup, value = (None, NO_HIT) if now is None else self._in_memory(now, args, kwargs, in_memory=True)
            if value is not NO_HIT and value is not LOOKED:
                return _given(value)
            # Here and now: what is passed may change before this is awaited.
            bound = self._bound(now, args, kwargs)
        except Exception as error:  # noqa: BLE001  # raised where the call is awaited
            return _raised(error)
        return self._awaited(now, lookup, bound, self._work(args, kwargs, bound[0]))

    async def _awaited(self, now: Runtime | None, lookup: Any, bound: _Asked, work: Work) -> Any:
        ready = await self._aready(now)
        from llmcache.functions.calls import aanswer

        call = ready.call(*bound, work, awaited=True)
        self._keep(lookup, ready.prepared(call), call.key)
        return await aanswer(ready, call, work, looked=False)

    def _iterate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        if running_loop() is not None:
            _raise_async_context(self._name)
        from llmcache.functions.calls import iterate

        ready, content, options = self._asked(process.current(), args, kwargs)
        work = self._work(args, kwargs, content)
        return iterate(ready, ready.call(content, options, work, awaited=False), work)

    def _aiterate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[Any]:
        now = process.current_if_made()
        bound = self._bound(now, args, kwargs)
        return self._aiterated(now, bound, self._work(args, kwargs, bound[0]))

    async def _aiterated(self, now: Runtime | None, bound: _Asked, work: Work) -> AsyncGenerator[Any]:
        from contextlib import aclosing

        ready = await self._aready(now)
        from llmcache.functions.calls import aiterate

        async with aclosing(aiterate(ready, ready.call(*bound, work, awaited=True), work)) as items:
            async for item in items:
                yield item

    # -- what a call is about

    def _in_memory(
        self, now: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any], *, in_memory: bool
    ) -> tuple[Any, Any]:
        """Return under what these arguments' key is remembered, None for unusual ones; and what memory has."""
        # What follows from the arguments by functions of the project's own is asked for each time.
        if self._given.tells or self._given.key is not None or self._ready is None or self._ready.now is not now:
            return None, NO_HIT
        if self._method:
            if not args:
                return None, NO_HIT
            args = (_class_of(args[0]), *args[1:])
        tenant = None if now.tenancy is None else now.tenancy.named(self._options)[_TENANT]
        # The types first: values of other types than those that are kept are not even compared.
        types = (*map(type, args), *map(type, kwargs.values())) if kwargs else tuple(map(type, args))
        lookup = (types, args, tenant, *kwargs.items()) if kwargs else (types, args, tenant)
        try:
            known = self._known.get(lookup)
        except TypeError:
            return None, NO_HIT
        if known is None:
            return lookup if _PLAIN.issuperset(types[self._method :]) else None, NO_HIT
        return lookup, known_hit(now, *known, in_memory=in_memory)

    def _keep(self, lookup: Any, prepared: Prepared | None, key: bytes) -> None:
        if lookup is None or prepared is None:
            return
        values = (*lookup[1], *(item[1] for item in lookup[3:]))
        size = sum(len(each) for each in values if isinstance(each, (str, bytes)))
        # No lock: of two threads that come here at once, the sum may lose one, and each step leaves the table whole.
        if len(self._known) >= MAX_KNOWN or self._characters + size > MAX_KNOWN_CHARACTERS:
            self._known.clear()
            self._characters = 0
        self._characters += size
        self._known[lookup] = prepared, key

    def _asked(
        self, now: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Ready, bytes, dict[str, Any]]:
        bound = self._bound(now, args, kwargs)
        return self._made_ready(now), *bound

    def _bound(
        self, now: Runtime | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bytes, dict[str, Any]]:
        """Return what stands for the arguments in a key, and the call's options."""
        return self._content(args, kwargs), self._options_of(now, args, kwargs)

    def _work(self, args: tuple[Any, ...], kwargs: dict[str, Any], content: bytes) -> Work:
        return Work(partial(self._function, *args, **kwargs), lambda: self._content(args, kwargs) != content)

    def _content(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        from llmcache.functions.arguments import content_of, content_of_key

        bound = self._bind(args, kwargs)
        owner = None
        if self._method:
            of = _class_of(bound.arguments.pop(next(iter(bound.arguments))))
            owner = f"{of.__module__}.{of.__qualname__}"
        if self._given.key is None:
            return content_of(self._name, self._named(bound.arguments), owner)
        return content_of_key(self._name, self._given.key(*args, **kwargs), owner)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        if (
            self._method
            and next(iter(self._signature.parameters)) == "cls"
            and not isinstance(next(iter(args), None), type)
        ):
            # From Python 3.13 on the methods of a class method are not told of which class it was looked up.
            raise TypeError(
                f"{self._function.__qualname__}() is a class method, and its class is in the key. Pass that first, as "
                "in Reader.read.key(Reader, 7)."
            )
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            # That names no function.
            raise TypeError(f"{self._function.__qualname__}() takes other arguments: {error}.") from None
        bound.apply_defaults()
        return bound

    def _named(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        named = dict(arguments)
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD and name in named:
                # In the order of their names: that in which they were written means nothing.
                named[name] = dict(sorted(named[name].items()))
        return named

    @property
    def _options(self) -> tuple[Any, ...]:
        return tuple(self._given.options.get(name, NOT_GIVEN) for name in request.OPTIONS)

    def _options_of(self, now: Runtime | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        told = {name: tell(*args, **kwargs) for name, tell in self._given.tells.items()}
        options = tuple({**self._given.options, **told}.get(name, NOT_GIVEN) for name in request.OPTIONS)
        tenancy = process.tenancy() if now is None else now.tenancy
        if tenancy is not None:
            options = tenancy.named(options)
        return {name: value for name, value in zip(request.OPTIONS, options, strict=True) if value is not NOT_GIVEN}

    def _made_ready(self, now: Runtime) -> Ready:
        ready = self._ready
        if ready is not None and ready.now is now and ready.is_current():
            return ready
        from llmcache.functions.calls import Ready

        if self._annotation is None:
            self._annotation = annotation_of(self._function, self._shape, last=True)
        item = self._annotation if "generator" in self._shape else None
        annotation = self._annotation if item is None else list[cast("Any", item)]
        ready = Ready(now, self._name, self._kind, annotation, item=item)
        self._known.clear()
        self._characters = 0
        self._ready = ready
        return ready

    async def _aready(self, now: Runtime | None) -> Ready:
        ready = self._ready
        if ready is not None and now is not None and ready.now is now and ready.is_current():
            return ready
        from llmcache import workers

        # A type that is seen for the first time takes as long as it likes to make its schema.
        return await workers.files.run(lambda: self._made_ready(process.current() if now is None else now))


class Bound(Generic[Q, R]):
    """A method whose values are kept, of one instance; which one it is, is not in the key."""

    def __init__(self, cached: Cached[Any, R], instance: Any) -> None:
        self._cached: Any = cached
        self.__self__ = instance
        self.__func__ = cached
        self.__name__: str = getattr(cached, "__name__", "")
        self.__doc__ = cached.__doc__
        if cached._shape == "async":  # pyright: ignore[reportPrivateUsage]
            markcoroutinefunction(cast("Any", self))

    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> R:
        """Return what the method does, from the cache where its value lies there."""
        return self._cached(self.__self__, *args, **kwargs)

    def __eq__(self, other: object) -> bool:
        # One is made whenever the method is looked up, as methods are.
        return isinstance(other, Bound) and self.__self__ is other.__self__ and self.__func__ is other.__func__

    def __hash__(self) -> int:
        return hash((id(self.__self__), self.__func__))

    def __repr__(self) -> str:
        return f"<bound {self._cached!r}>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Not made before it is looked for, as by what asks for the signature.
            if name == "__wrapped__":
                return self._cached.__wrapped__.__get__(self.__self__)
            raise AttributeError(f"A cached method has no attribute {name!r}.")

    def key(self, *args: Q.args, **kwargs: Q.kwargs) -> str:
        """Return the key of the value for these arguments, in hex."""
        return self._cached.key(self.__self__, *args, **kwargs)

    def bypass(self, *args: Q.args, **kwargs: Q.kwargs) -> R:
        """Return what the method does, and touch no tier."""
        return self._cached.bypass(self.__self__, *args, **kwargs)

    def invalidate(self, *args: Q.args, **kwargs: Q.kwargs) -> None:
        """Make the value for these arguments void."""
        self._cached.invalidate(self.__self__, *args, **kwargs)

    async def ainvalidate(self, *args: Q.args, **kwargs: Q.kwargs) -> None:
        """Do as ``invalidate``, awaited."""
        await self._cached.ainvalidate(self.__self__, *args, **kwargs)

    def cache_info(self) -> CacheInfo:
        """Return what the function's does."""
        return self._cached.cache_info()

    def cache_clear(self) -> None:
        """Do as the function's."""
        self._cached.cache_clear()

    async def acache_clear(self) -> None:
        """Do as the function's."""
        await self._cached.acache_clear()


@overload
def cached(function: Callable[P, R], /) -> Cached[P, R]: ...
@overload
def cached(
    *,
    key: Tell | None = None,
    kind: str | NotGiven = NOT_GIVEN,
    ttl: float | timedelta | NotGiven | None = NOT_GIVEN,
    stale_ttl: float | timedelta | NotGiven = NOT_GIVEN,
    tenant: str | Tell | NotGiven | None = NOT_GIVEN,
    subject: str | Tell | NotGiven | None = NOT_GIVEN,
    tags: Collection[str] | Tell | NotGiven = NOT_GIVEN,
    version: str | NotGiven | None = NOT_GIVEN,
    cache: CacheUse | NotGiven = NOT_GIVEN,
    timeout: float | timedelta | NotGiven = NOT_GIVEN,
) -> Callable[[Callable[P, R]], Cached[P, R]]: ...
def cached(function: Any = None, /, *, key: Tell | None = None, **options: Any) -> Any:
    """Return a function that does what the decorated one does, and keeps its values in the cache.

    ``@cached``, or ``@cached(ttl=3600)``. The function, plain, asynchronous or a generator, must say in its annotation
    what it returns: a type that ``extract`` takes. Its arguments are in the key, defaults filled in; of a method
    neither ``self`` nor ``cls``, but its class. ``key``: a function of the same arguments that returns what stands for
    them. ``kind``: what its values are for, in settings and reports; the function's name by default. ``tenant``,
    ``subject``, ``tags``: one for all calls, or a function of the same arguments. ``version``: change it when the
    function's code does. ``timeout``: seconds to wait for another call of the same arguments. All others as
    ``extract``; a generator has no ``stale_ttl``.

    A value is written down, loaded and compared before it is kept: what does not come back equal is given to its caller
    and is not kept, with one warning that says why. What the function raises is raised, and not kept. Raises
    ``UnsupportedType`` for an annotation that cannot be used, ``InvalidRequest`` where arguments cannot be in a key,
    ``RecursiveExtract`` for a function that calls itself with its own arguments, ``AsyncContext`` for one that is not
    asynchronous in a running event loop.
    """
    given = _given_of(key, options)
    if function is None:
        return lambda function: Cached(function_of(function), given)
    return Cached(function_of(function), given)


def _given_of(key: Any, options: dict[str, Any]) -> _Given:
    known = ("kind", "ttl", "stale_ttl", *_OWN, "version", "cache", "timeout")
    for name in options:
        if name not in known:
            raise InvalidRequest(f"@cached has no argument {name}=. It takes key, {', '.join(known)}.")
    if key is not None and not callable(key):
        raise InvalidRequest("key= of @cached must be a function of the decorated function's arguments.")
    given = {name: value for name, value in options.items() if value is not NOT_GIVEN}
    if "kind" in given:
        given["kind"] = request.word("kind", given["kind"], most=100)
    tells = {name: given.pop(name) for name in _OWN if callable(given.get(name))}
    return _Given(given, tells, key)


def _raise_async_context(name: str) -> NoReturn:
    raise AsyncContext(
        f"{name}() is cached and not asynchronous, and was called in a thread whose event loop is running, which it "
        "would stop. Write it with async def, or call it by asyncio.to_thread."
    )


def _class_of(instance: Any) -> type[Any]:
    return cast("type[Any]", instance) if isinstance(instance, type) else type(instance)


async def _given(value: Any) -> Any:
    return value


async def _raised(error: Exception) -> Any:
    raise error

"""Cached functions of a list of keys: cacheable.many().

A key has an entry and a flight of its own, as if the function were one of a single key: what is there is served, what
another call loads is waited for, and what is left is loaded by one call of the function. While that runs, its fills
form a chain, each the ``outer`` of the next, so that whoever looks for who computes what finds all of them; what is
met on the way belongs to each. They are settled before the first of them is left, so that none takes for its own what
only another depends on.

What a call does is written once, for threads and for coroutines: ``_steps`` yields what may wait, in both forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoocache._callables import imitate
from zoocache._fills import ABSENT, _loop
from zoocache._functions import Function, _looks_bound
from zoocache._table import DONE, FAILED, Fill
from zoocache.context import OFF, OPEN, holds_back, is_off

if TYPE_CHECKING:
    from collections.abc import Generator

    from zoocache._ffi_shared import Found
    from zoocache._shared import Shared

    Steps = Generator[tuple[Any, ...], Any, Any]
    Calls = dict[Any, tuple[Any, ...]]  # by the key of its entry, the arguments of each key

__all__ = ["Many"]


class Many(Function):
    """The table of a function of a list of keys."""

    listed: bool | None = None  # whether it returns a list, or a dict: known once it has returned something

    def __init__(self, func: Any, *options: Any) -> None:
        super().__init__(func, *options)
        if self.rules.fleet:
            raise ValueError(f"zoocache: `{self.name}`: fleet is for functions of one key")
        names = self.signature.names
        self.place = 1 if _looks_bound(func) or names[:1] == ["cls"] else 0  # of the list, among the arguments
        taken = names[self.place : self.place + 1]
        if not taken and not self.signature.positional:
            raise TypeError(f"zoocache: `{self.name}` has no parameter for a list of keys")
        if taken and taken[0] in self.signature.ignored:
            raise TypeError(f"zoocache: `{self.name}`: its keys cannot be ignored")

    def wrapper(self) -> Any:
        """The function to call instead."""
        super().wrapper()  # which makes what binds arguments

        if self.is_async:

            async def awrapper(*args: Any, **kwargs: Any) -> Any:
                return await self._adrive(self._steps(*self.bound_arguments(*args, **kwargs)))

            made: Any = awrapper
        else:

            def wrapper(*args: Any, **kwargs: Any) -> Any:
                return self._drive(self._steps(*self.bound_arguments(*args, **kwargs)))

            made = wrapper
        made.__code__ = self.code = made.__code__.replace()  # one of its own: it is known by that
        imitate(made, self.func)
        for name in ("cache_info", "cache_clear", "invalidate", "key", "explain", "refresh"):
            setattr(made, name, getattr(self, name))
        return made

    def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        """Removes the entries of these keys. Returns whether there was one."""
        positional, keywords = self.bound_arguments(*args, **kwargs)
        dropped = False
        for frozen in self._calls(self._keys(positional), positional, keywords):
            if OPEN:
                self.bind().again(self.drop, frozen)
            dropped |= self.drop(frozen)
        return dropped

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        """Loads these keys anew."""
        steps = self._steps(*self.bound_arguments(*args, **kwargs), True)
        return self._adrive(steps) if self.is_async else self._drive(steps)

    # ---- its keys ----------------------------------------------------------------------------------

    def _keys(self, args: tuple[Any, ...]) -> list[Any]:
        """The keys of a call."""
        if len(args) <= self.place or isinstance(args[self.place], (str, bytes, Mapping)):
            raise TypeError(f"zoocache: `{self.name}` takes a list of keys")
        return list(args[self.place])

    def _with(self, args: tuple[Any, ...], keys: Any) -> tuple[Any, ...]:
        """These arguments, with others, or one, in place of the keys."""
        return (*args[: self.place], keys, *args[self.place + 1 :])

    def _calls(self, keys: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Calls:
        """What a call of each key alone would be. Equal keys are one."""
        calls: Calls = {}
        for key in keys:
            single = self._with(args, key)
            calls.setdefault(self.freeze(single, kwargs), single)
        return calls

    def _answer(self, keys: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any], got: dict[Any, Any]) -> Any:
        """What the call returns: as the function would, in the order of the keys."""
        values = [got[self.freeze(self._with(args, key), kwargs)] for key in keys]
        if self.listed:
            return [None if value is ABSENT else value for value in values]
        return {key: value for key, value in zip(keys, values) if value is not ABSENT}

    # ---- both kinds of functions -------------------------------------------------------------------

    def _drive(self, steps: Steps) -> Any:
        """Takes the steps, in a thread."""
        answer: Any = None
        error: BaseException | None = None
        try:
            while True:
                try:
                    work, _, *args = steps.send(answer) if error is None else steps.throw(error)
                except StopIteration as stop:
                    return stop.value
                answer = error = None
                try:
                    answer = work(*args)
                except BaseException as met:
                    error = met
        finally:
            answer = error = None
            steps.close()

    async def _adrive(self, steps: Steps) -> Any:
        """Takes the steps, in a coroutine."""
        answer: Any = None
        error: BaseException | None = None
        try:
            while True:
                try:
                    _, work, *args = steps.send(answer) if error is None else steps.throw(error)
                except StopIteration as stop:
                    return stop.value
                answer = error = None
                try:
                    answer = await work(*args)
                except BaseException as met:
                    error = met
        finally:
            answer = error = None
            steps.close()

    # ---- a call ------------------------------------------------------------------------------------

    def _steps(self, args: tuple[Any, ...], kwargs: dict[str, Any], anew: bool = False) -> Steps:
        """A call: what is there, what others load, what is to be loaded."""
        keys = self._keys(args)
        calls = self._calls(keys, args, kwargs)
        got: dict[Any, Any] = {}
        fills: list[Fill] = []
        try:
            for frozen, single in calls.items():
                value = ABSENT if anew else self.serve(frozen, single, kwargs)
                if value is not ABSENT:
                    got[frozen] = value
                    continue
                fill = self.anew(frozen) if anew else Fill(self, frozen)
                fill.loop = _loop() if self.is_async else None
                fills.append(fill)
                if anew:
                    self.supersede(fill)
            todo = fills
            failures: set[Any] = set()
            while todo:
                todo = yield from self._round(todo, calls, kwargs, got, failures)
        finally:
            for fill in reversed(fills):
                if fill.leading:
                    self.abandon(fill)
        return self._answer(keys, args, kwargs, got)

    def _round(
        self, todo: list[Fill], calls: Calls, kwargs: dict[str, Any], got: dict[Any, Any], failures: set[Any]
    ) -> Steps:
        """Loads those that nobody loads, then waits for the others. Returns those that have to begin again.

        failures: the keys of those that have met one, of whom each tries once more if the rules say so.
        """
        mine: list[Fill] = []
        theirs: list[tuple[Fill, Fill | None]] = []
        for fill in todo:
            if OFF and is_off(fill.cache):
                fill.step_aside()
            elif OPEN and holds_back(fill.cache):
                self.begin_private(fill)
            if not (fill.renews or self.claim(fill)):
                theirs.append((fill, self.flights.get(fill.key)))
            elif fill.key in self.entries and self.arrived(fill, calls[fill.key], kwargs):
                got[fill.key] = fill.value
            else:
                mine.append(fill)
        if mine:
            yield from self._load(mine, calls, kwargs)
            got.update({fill.key: fill.value for fill in mine})
        again = []
        for fill, other in theirs:
            if other is not None:
                yield self.follow, self.afollow, other
                if self.landed(other, fill, calls[fill.key], kwargs, fill.key in failures):
                    got[fill.key] = fill.value
                    continue
                if other.state == FAILED:
                    failures.add(fill.key)
            again.append(fill)
        return again

    def _load(self, fills: list[Fill], calls: Calls, kwargs: dict[str, Any]) -> Steps:
        """Finds their values in the storage, or by one call of the function; leaves them."""
        cache = fills[0].cache
        outer = fills[0].outer
        shared = cache.shared
        if shared is not None:
            found = yield self._look_up, self._alook_up, shared, [fill for fill in fills if not fill.renews]
            for fill, (record, value) in found:
                fill.value = self.take(fill, record, value)
                if outer is not None and not outer.done:
                    outer.deps.update(record.deps.tags())
        fills = [fill for fill in fills if not fill.done]
        if not fills:
            return
        try:
            for fill, before in zip(fills, [outer, *fills]):
                fill.outer, fill.deps = before, fills[0].deps
                self.enter(fill)
            if cache.loads is not None:
                yield cache.loads.wait, cache.loads.await_turn, self, fills[-1]
            for fill in fills:
                fill.static = yield self.dependencies, self.adependencies, fill, calls[fill.key], kwargs
            values = yield from self._called([calls[fill.key] for fill in fills], kwargs)
            for fill in fills:
                self.heed(fill)
                fill.ttl, fill.store = fills[-1].ttl, fill.store and fills[-1].store
            for fill, value in zip(fills, values):
                self._settle_one(fill, value)
            if shared is not None:
                yield self._keep, self._akeep, shared, fills
        except BaseException:
            stale = [self.failed(fill) for fill in reversed(fills)]
            if not all(stale):
                raise
        finally:
            for fill in reversed(fills):
                self.abandon(fill)
            for fill in fills[1:]:
                fill.outer = outer
                if outer is not None:
                    self.hand_up(fill)

    def _called(self, singles: list[tuple[Any, ...]], kwargs: dict[str, Any]) -> Steps:
        """The value of each of these keys; ABSENT for one that the function does not return."""
        keys = [single[self.place] for single in singles]
        given = keys.copy()  # its own: it may sort it, or use it up
        result = yield (self._call, self._acall, self._with(singles[0], given), kwargs)
        if isinstance(result, Mapping):
            self.listed = False
            return [result.get(key, ABSENT) for key in keys]
        if not isinstance(result, (list, tuple)):
            raise TypeError(
                f"zoocache: `{self.name}` must return a dict, or a list with a value for each key, not"
                f" {type(result).__name__}"
            )
        if len(result) != len(keys):
            raise ValueError(f"zoocache: `{self.name}` has returned {len(result)} values for {len(keys)} keys")
        if [id(key) for key in given] != [id(key) for key in keys]:
            raise ValueError(
                f"zoocache: `{self.name}` has changed its list of keys, so it is not known which value is whose:"
                " return a dict, or change a copy"
            )
        self.listed = True
        return list(result)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.func(*args, **kwargs)

    async def _acall(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return await self.func(*args, **kwargs)

    def _settle_one(self, fill: Fill, value: Any) -> None:
        """Stores a value. One that was not returned is not stored, and who waits for it gets that."""
        if value is ABSENT:
            fill.final = self.gathered(fill)
            fill.value = fill.result = ABSENT
            old = self.entries.get(fill.key)
            self.end(fill, DONE)
            if old is not None and not fill.private:
                self.remove(old, "replaced")
            return
        self.settle_value(fill, value)

    def result(self, fill: Fill) -> Any:
        """What a follower gets."""
        return ABSENT if fill.result is ABSENT and fill.error is None else super().result(fill)

    # ---- the storage -------------------------------------------------------------------------------

    def _look_up(self, shared: Shared, fills: list[Fill]) -> list[tuple[Fill, tuple[Found, Any]]]:
        """What the storage has of them, asked in one step; not before a call has told what the function returns."""
        return shared.look_up_many(fills, self.listed is not None)

    async def _alook_up(self, shared: Shared, fills: list[Fill]) -> Any:
        return await shared.run([(self, fill.key) for fill in fills], self._look_up, shared, fills)

    def _keep(self, shared: Shared, fills: list[Fill]) -> None:
        for fill in fills:
            shared.keep_fill(fill)

    async def _akeep(self, shared: Shared, fills: list[Fill]) -> None:
        await shared.run([(self, fill.key) for fill in fills], self._keep, shared, fills)

    # ---- a refresh beside ----------------------------------------------------------------------------

    def lead(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Loads one key."""
        self._drive(self._load([fill], {fill.key: args}, kwargs))
        return fill.value

    async def alead(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same, for a coroutine function."""
        await self._adrive(self._load([fill], {fill.key: args}, kwargs))
        return fill.value

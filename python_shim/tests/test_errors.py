"""Exceptions that several callers get, and what failed calls leave behind."""

import gc
import sys
import threading
import traceback
from weakref import ref

import pytest
from test_flights import Gate, Herd, until, waits

from zoocache import cacheable
from zoocache._copies import again, copied


class Local:
    """Something of the call that failed."""


class Odd(Exception):
    """Its __init__ wants something else than its args, and it has a slot."""

    __slots__ = ("seen",)

    def __init__(self, user, *, code):
        super().__init__(f"no {user}")
        self.user = user
        self.code = code
        self.seen = 1


class Stubborn(Odd):
    """It does not want to be copied."""

    def __reduce__(self):
        raise TypeError("no")

    __copy__ = __deepcopy__ = __reduce__


def raised(call, *args):
    try:
        call(*args)
    except BaseException as error:
        return error
    raise AssertionError("it has not raised")


def made(kind):
    def fail():
        raise kind()

    return raised(fail)


KINDS = [
    lambda: Odd("me", code=3),
    lambda: Stubborn("me", code=3),
    lambda: FileNotFoundError(2, "no such", "path"),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    lambda: ImportError("no module", name="n", path="p"),
    lambda: SyntaxError("bad", ("file", 1, 2, "text")),
    lambda: StopIteration(5),
    lambda: KeyError(("a", 1)),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_says_what_the_original_says(kind):
    error = made(kind)
    copy = copied(error)
    assert copy is not error
    assert type(copy) is type(error)
    assert (repr(copy), str(copy), copy.args, vars(copy)) == (repr(error), str(error), error.args, vars(error))
    for name in ("user", "code", "seen", "errno", "filename", "object", "reason", "name", "path", "lineno", "value"):
        assert getattr(copy, name, None) == getattr(error, name, None)
    assert copy.__traceback__ is None
    assert error.__traceback__ is not None, "its own caller has it"


def test_causes_notes_and_what_is_inside_are_copied_too():
    inner = made(lambda: ValueError("inner"))
    error = made(lambda: Odd("me", code=inner))
    error.__cause__, error.__notes__, error.more = inner, ["a note"], {"inner": [inner]}
    copy = copied(error)
    assert repr(copy.__cause__) == "ValueError('inner')"
    assert copy.__cause__ is copy.code is copy.more["inner"][0]
    assert copy.__cause__ is not inner
    assert copy.__cause__.__traceback__ is None
    copy.__notes__.append("another's")
    assert error.__notes__ == ["a note"]
    loop = made(lambda: ValueError("of itself"))
    loop.__cause__ = loop
    assert copied(loop).__cause__ is not loop


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no groups")
def test_groups_are_copied_with_what_is_in_them():
    class Group(ExceptionGroup):  # noqa: F821
        def __new__(cls, errors, extra):
            self = super().__new__(cls, "several", errors)
            self.extra = extra
            return self

        def __init__(self, errors, extra):
            pass

    error = made(lambda: Group([made(lambda: KeyError(1)), made(lambda: Odd("me", code=2))], 7))
    copy = copied(error)
    assert (type(copy), copy.message, copy.extra) == (Group, "several", 7)
    assert [repr(x) for x in copy.exceptions] == ["KeyError(1)", "Odd('no me')"]
    for mine, theirs in zip(copy.exceptions, error.exceptions):
        assert mine is not theirs
        assert mine.__traceback__ is None


def test_what_cannot_be_copied_is_raised_itself():
    class Alone(Exception):
        def __setattr__(self, name, value):
            if not name.startswith("__"):
                raise ValueError("no")
            super().__setattr__(name, value)

        def __copy__(self):
            raise TypeError("no")

    error = made(Alone)
    assert copied(error) is error
    assert error.__traceback__ is not None, "its own caller still has it"
    assert again(error) is error
    assert error.__traceback__ is None


@pytest.mark.parametrize("kind", [*KINDS[:3], lambda: KeyError("k")])
def test_a_cached_error_is_clean_at_every_raise(kind):
    kept = []

    @cacheable(cache_errors=Exception)
    def f(x):
        local = Local()
        kept.append(ref(local))
        try:
            raise ValueError(x)
        except ValueError as cause:
            raise kind() from cause

    def request(number):
        try:
            raise RuntimeError(f"request {number}")
        except RuntimeError:
            return raised(f, 1)

    first = request(0)
    assert len(kept) == 1
    depths = []
    for number in range(1, 30):
        error = request(number)
        assert (type(error), str(error)) == (type(first), str(first))
        assert error is not first
        assert str(error.__cause__) == "1"
        assert str(error.__context__) == f"request {number}"
        assert error.__context__.__context__ is None
        error.__notes__ = [f"of {number}"]
        depths.append(len(traceback.extract_tb(error.__traceback__)))
    assert len(set(depths)) == 1, "it does not grow"
    assert getattr(raised(f, 1), "__notes__", None) is None
    del first, error
    gc.collect()
    assert kept[0]() is None, "the frames of the call that failed are gone"


def test_a_followers_error_is_its_own():
    def failing(n):
        raise Odd("me", code=n)

    gate = Gate(outcome=failing)

    def request(name):
        try:
            raise RuntimeError(name)
        except RuntimeError:
            return gate.f(1)

    leader = Herd(request, 1, "leader")
    assert gate.inside.wait(30)
    followers = [Herd(request, 1, f"follower {n}") for n in range(3)]
    until(lambda: waits() == 3)
    gate.go.set()
    assert str(leader.join()[0].__context__) == "leader"
    for n, follower in enumerate(followers):
        [error] = follower.join()
        assert (str(error), error.code) == ("no me", 1)
        texts = []
        while error is not None:
            texts.append(str(error))
            names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
            assert "failing" not in names
            error = error.__context__
        assert texts == ["no me", f"follower {n}"]


def test_what_nobody_waits_for_is_not_kept():
    kept = []

    @cacheable
    def f(x):
        local = Local()
        kept.append(ref(local))
        raise LookupError(x)

    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            raised(f, 1)
        assert [r() for r in kept] == [None] * 3, "failed calls leave no cycles"
        assert gc.collect() == 0
    finally:
        gc.enable()


async def test_failed_coroutines_leave_no_cycles():
    kept = []

    @cacheable(cache_errors=KeyError)
    async def f(x):
        local = Local()
        kept.append(ref(local))
        raise x

    gc.collect()
    gc.disable()
    try:
        for error in (LookupError, KeyError, LookupError):
            try:
                await f(error)
            except LookupError:
                pass
        assert [r() for r in kept] == [None] * 3
    finally:
        gc.enable()


def test_threads_that_raise_the_same_cached_error_do_not_mix():
    both = threading.Barrier(2)

    @cacheable(cache_errors=LookupError)
    def f(x):
        raise LookupError(x)

    raised(f, 1)

    def deep(n):
        if n:
            return deep(n - 1)
        both.wait(30)
        return f(1)

    herds = [Herd(deep, 1, n) for n in (2, 20)]
    depths = [len(traceback.extract_tb(herd.join()[0].__traceback__)) for herd in herds]
    assert depths[1] - depths[0] == 18

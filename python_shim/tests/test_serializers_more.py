"""JSON, Arrow, and the values of other packages: what comes back is what was given, or it is refused."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import json
import math
import sys
import uuid
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from shelf import Shelf, evict

from zoocache import Cache, Unserializable, _ffi
from zoocache.serializers import Arrow, Json, MessagePack, _forms, register

try:
    import orjson
except ImportError:
    orjson = None

needs_lmdb = pytest.mark.skipif(not _ffi.parts()["lmdb"], reason="without LMDB")

PACK, JSON, ARROW = MessagePack(), Json(), Arrow()


def joined(data):
    return data if isinstance(data, bytes) else b"".join(data)


def back(one, value):
    """What comes back of what a storage has, whichever memory it gives."""
    data = joined(one.dumps(value))
    found = one.loads(data)
    one.loads(memoryview(bytearray(data)))
    return found


# ---- JSON --------------------------------------------------------------------------------------------


def plain_json():
    """Json as it is without orjson."""
    saved, sys.modules["orjson"] = sys.modules.get("orjson"), None
    try:
        return Json()
    finally:
        if saved is None:
            del sys.modules["orjson"]
        else:
            sys.modules["orjson"] = saved


STANDARD = plain_json()

documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


def same(a, b):
    if type(a) is not type(b):
        return False
    if type(a) is list:
        return len(a) == len(b) and all(map(same, a, b))
    if type(a) is dict:
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return a == b and (type(a) is not float or math.copysign(1, a) == math.copysign(1, b))


@given(documents)
def test_json_with_and_without_orjson(value):
    """What one has written, the other reads, and it is the same."""
    for writer in (JSON, STANDARD):
        data = writer.dumps(value)
        assert same(json.loads(data), value)
        for reader in (JSON, STANDARD):
            assert same(reader.loads(data), value)
            assert same(reader.loads(memoryview(data)), value)


class Colour(enum.Enum):
    RED = 1


class Name(str):
    pass


@dataclasses.dataclass
class Point:
    x: int


NO_JSON = [
    (1,), {1: 2}, {None: 1}, {"a": (1,)}, [[{"b": {1}}]], math.nan, [math.inf], {"a": -math.inf}, 2**64, [-(2**63) - 1], 10**400, b"x",
    bytearray(b"x"), Name("a"), {Name("k"): 1}, Colour.RED, [uuid.UUID(int=1)], dt.datetime(2026, 1, 1), dt.date(2026, 1, 1), dt.time(1),
    Point(1), decimal.Decimal(1), collections.OrderedDict(a=1), object(), "\ud800", {"\ud800": 1}, 1j, np.float64(1.5), np.arange(3),
]  # fmt: skip


@pytest.mark.parametrize("value", NO_JSON, ids=lambda x: ascii(x)[:40])
@pytest.mark.parametrize("one", [JSON, STANDARD], ids=["orjson", "json"])
def test_json_refuses_what_would_be_another_value(one, value):
    with pytest.raises(Unserializable):
        one.dumps(value)


@pytest.mark.parametrize("one", [JSON, STANDARD], ids=["orjson", "json"])
def test_json_that_goes_round_or_too_deep(one):
    ring = []
    ring.append(ring)
    deep = []
    for _ in range(5000):
        deep = [deep]
    for value in (ring, deep):
        with pytest.raises(Unserializable):
            one.dumps(value)


@given(st.binary() | st.text(alphabet='[]{}":,0123456789.eE-+NaInfity ').map(str.encode))
def test_bytes_that_are_no_json(data):
    for one in (JSON, STANDARD):
        try:
            value = one.loads(data)
        except Exception as error:
            assert isinstance(error, (ValueError, RecursionError))
        else:
            assert value is None or type(value) in (bool, int, float, str, list, dict)


# ---- NumPy -------------------------------------------------------------------------------------------


def same_array(a, b):
    return (
        type(a) is type(b)
        and a.dtype == b.dtype
        and a.shape == b.shape
        and (a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes())
    )


dtypes = (
    st_np.scalar_dtypes() | st_np.byte_string_dtypes(max_len=5) | st_np.unicode_string_dtypes(max_len=5)
    | st_np.datetime64_dtypes() | st_np.timedelta64_dtypes() | st_np.complex_number_dtypes()
)  # fmt: skip


@given(st_np.arrays(dtypes | st_np.array_dtypes(max_size=3), st_np.array_shapes(min_dims=0, min_side=0)))
def test_arrays_in_messagepack(array):
    try:
        found = back(PACK, [array])
    except Unserializable:
        assert array.dtype.kind == "V", "of the plain ones none is refused"
        return
    assert same_array(found[0], array)
    assert found[0].flags.writeable


@given(st_np.arrays(dtypes, st_np.array_shapes(min_dims=0, min_side=0)))
def test_arrays_in_arrow(array):
    for each in (array, array.T, array[..., ::-1] if array.ndim else array):
        assert same_array(back(ARROW, each), each)


@given(
    st_np.from_dtype(np.dtype("f8"))
    | st.sampled_from("?bBhHiIlLqQefdgFDG").flatmap(lambda c: st_np.from_dtype(np.dtype(c)))
)
def test_scalars(value):
    try:
        found = PACK.loads(PACK.dumps({"x": value}))["x"]
    except Unserializable:
        assert type(value) in (np.longlong, np.ulonglong), "which are as other types of the same size"
        return
    assert type(found) is type(value)
    assert found.tobytes() == value.tobytes()


@pytest.mark.parametrize(
    "value",
    [
        np.str_("é\0x"),
        np.bytes_(b"a\0b"),
        np.datetime64("NaT"),
        np.datetime64(5, "3D"),
        np.timedelta64(7, "ms"),
        np.bool_(True),
    ],
)
def test_other_scalars(value):
    found = PACK.loads(PACK.dumps(value))
    assert type(found) is type(value)
    assert found.dtype == value.dtype
    assert found.tobytes() == value.tobytes()


def test_records():
    array = np.array([(1, "a", [1.5, 2])], dtype=np.dtype([("n", ">i4"), ("s", "U3"), ("v", "f4", (2,))], align=False))
    assert same_array(back(PACK, array), array)
    one = array[0]
    assert PACK.loads(PACK.dumps(one)) == one
    with pytest.raises(Unserializable):
        ARROW.dumps(array)


def test_arrays_of_objects():
    array = np.array([1, "a", (2, 3), None, {"k": {1}}], object).reshape(5, 1)
    assert same_array(back(PACK, array), array)
    nested = np.empty(2, object)
    nested[:] = [np.arange(3), [1, 2]]
    found = back(PACK, nested)
    assert same_array(found[0], nested[0])
    assert found[1] == [1, 2]


class Sub(np.ndarray):
    pass


NO_ARRAYS = [
    np.ma.masked_array([1, 2], [True, False]), np.arange(3).view(Sub), np.array([object()]), np.rec.array([(1,)], dtype=[("a", "i4")]), np.str_("a\0"),
    np.zeros(2, np.dtype("i4", metadata={"a": 1})), np.zeros(2, [("a", object)]), np.dtype("i4"), np.array(["a"], np.dtypes.StringDType()),
]  # fmt: skip


@pytest.mark.parametrize("value", NO_ARRAYS, ids=lambda x: f"{type(x).__name__} {x!r}"[:40])
def test_arrays_that_are_refused(value):
    for one in (PACK, ARROW):
        with pytest.raises(Unserializable):
            one.dumps(value)


# ---- pandas ------------------------------------------------------------------------------------------


def equal(a, b):
    """Equal as pandas' own tests have it, strictly."""
    assert type(a) is type(b)
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_exact=True, check_freq=True)
        assert list(map(type, a.columns)) == list(map(type, b.columns))
        for place in range(a.shape[1]):
            equal(a.iloc[:, place], b.iloc[:, place])
    elif isinstance(a, pd.Series):
        pd.testing.assert_series_equal(a, b, check_exact=True, check_freq=True, check_series_type=True)
        if a.dtype == object:
            assert [type(x) for x in a] == [type(x) for x in b]
        assert a.dtype == b.dtype
    else:
        pd.testing.assert_index_equal(a, b, exact=True)
        assert getattr(a, "freq", None) == getattr(b, "freq", None)


ZONED = pd.date_range("2026-03-28", periods=4, freq="h", tz="Europe/Berlin")
COLUMNS: dict[str, Any] = {
    "int": [1, 2, 3, 4], "small": np.array([1, 2, 3, 255], "u1"), "big": np.array([1, 2, 3, 4], ">i4"),
    "float": [1.5, math.nan, -0.0, math.inf], "half": np.array([1, 2, 3, 4], "f2"),
    "bool": [True, False, True, True], "complex": [1j, 2, 3, 4],
    "time": pd.date_range("2026-01-01", periods=4, unit="us"), "seconds": np.array([1, 2, 3, "NaT"], "M8[s]"),
    "span": pd.to_timedelta([1, 2, None, 4], unit="h"), "zoned": ZONED, "utc": ZONED.tz_convert("UTC"),
    "text": ["a", "é", "", "\0"], "missing": pd.Series(["a", None, "b", "c"]),
    "python": pd.array(["a", None, "b", "c"], pd.StringDtype("python")), "arrow": pd.array(["a", None, "b", "c"], pd.StringDtype("pyarrow")),
    "category": pd.Categorical(["x", "y", None, "x"]), "ordered": pd.Categorical([3, 1, 2, 1], [3, 2, 1], ordered=True),
    "Int": pd.array([1, None, 3, 2**60], "Int64"), "UInt8": pd.array([1, None, 3, 4], "UInt8"),
    "Float": pd.array([1.5, None, 3, 4], "Float64"), "Bool": pd.array([True, None, False, True], "boolean"),
    "object": pd.Series(["a", "b", "c", "d"], dtype=object), "none": pd.Series(["a", None, "c", "d"], dtype=object),
    "nan": pd.Series(["a", math.nan, "c", "d"], dtype=object),
}  # fmt: skip

INDICES = [
    None, pd.RangeIndex(5, 13, 2, name="i"), pd.Index(list("abcd")), pd.Index(list("abcd"), dtype=object, name="o"), pd.Index([1, 2, 3, 3], name=7),
    pd.Index([1.5, math.nan, 2, 3]), ZONED, ZONED._with_freq(None), pd.timedelta_range("1h", periods=4, freq="h"), pd.CategoricalIndex(list("abca")),
    pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["x", None]), pd.MultiIndex.from_arrays([list("aabb"), ZONED._with_freq(None), [1, None, 2, 3]]),
]  # fmt: skip


@pytest.mark.parametrize("one", [PACK, ARROW], ids=["msgpack", "arrow"])
@pytest.mark.parametrize("name", COLUMNS)
def test_columns(one, name):
    series = pd.Series(COLUMNS[name], name=name)
    equal(back(one, series), series)
    equal(back(one, series.iloc[1:]), series.iloc[1:])
    equal(back(one, series.iloc[::-2]), series.iloc[::-2])
    equal(back(one, series.iloc[:0]), series.iloc[:0])
    frame = pd.DataFrame({name: series, 5: series})
    equal(back(one, frame), frame)


@pytest.mark.parametrize("one", [PACK, ARROW], ids=["msgpack", "arrow"])
@pytest.mark.parametrize("index", INDICES, ids=lambda x: type(x).__name__)
def test_indices(one, index):
    frame = pd.DataFrame({name: pd.Series(column) for name, column in COLUMNS.items()})
    frame = frame if index is None else frame.set_index(index)
    equal(back(one, frame), frame)
    if index is not None:
        equal(back(one, index), index)


@pytest.mark.parametrize("one", [PACK, ARROW], ids=["msgpack", "arrow"])
def test_frames_of_other_shapes(one):
    for frame in (
        pd.DataFrame(), pd.DataFrame(index=[1, 2]), pd.DataFrame(columns=["a", "b"]), pd.DataFrame(np.arange(12).reshape(3, 4)),
        pd.DataFrame(np.arange(12.0).reshape(3, 4), columns=list("aabb")), pd.DataFrame({0: [1], "x": [2]}),
        pd.DataFrame({"a": [1]}).rename_axis(columns="axis"),
    ):  # fmt: skip
        equal(back(one, frame), frame)


frames = st.lists(st.sampled_from(sorted(COLUMNS.keys() - {"big"})), max_size=6, unique=True).flatmap(
    lambda names: st.lists(st.integers(0, 3), max_size=12).map(
        lambda rows: pd.DataFrame({name: pd.Series(COLUMNS[name]) for name in names}, index=range(4)).iloc[rows]
    )
)


@settings(max_examples=50)
@given(frames)
def test_any_frame(frame):
    for one in (PACK, ARROW):
        equal(back(one, frame), frame)


class Frame(pd.DataFrame):
    pass


def with_attrs():
    frame = pd.DataFrame({"a": [1]})
    frame.attrs["source"] = "x"
    return frame


NO_FRAMES = [
    Frame({"a": [1]}), with_attrs(), pd.DataFrame({"a": pd.arrays.SparseArray([0, 1])}), pd.DataFrame({"a": pd.period_range("2026", periods=2)}),
    pd.DataFrame({"a": pd.interval_range(0, 2)}), pd.DataFrame({(1, 2): [1]}), pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
    pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False), pd.DataFrame({"a": pd.array([1], pd.ArrowDtype(pa.int64()))}),
    pd.Series([1], name=("a", "b")), pd.DataFrame({"a": [object()]}), pd.DataFrame({1.5: [1]}), pd.period_range("2026", periods=2),
]  # fmt: skip


@pytest.mark.parametrize("one", [PACK, ARROW], ids=["msgpack", "arrow"])
@pytest.mark.parametrize("value", NO_FRAMES, ids=range(len(NO_FRAMES)))
def test_frames_that_are_refused(one, value):
    with pytest.raises(Unserializable):
        one.dumps(value)


@pytest.mark.parametrize(
    "column",
    [[1, "a"], ["a", None, math.nan], [b"a"], [1, 2], [True, None], [Name("a")], [dt.date(2026, 1, 1)], [1.5, "a"], [[1], [2]]],
)  # fmt: skip
def test_objects_that_arrow_would_change(column):
    series = pd.Series(column, dtype=object)
    with pytest.raises(Unserializable):
        ARROW.dumps(series)
    if not isinstance(column[0], Name):
        equal(back(PACK, series), series)


@pytest.mark.parametrize(
    "value",
    [pd.Timestamp("2026-01-01 10:00:00.123456789"), pd.Timestamp("2026-10-25 00:30", tz="UTC").tz_convert("Europe/Berlin"), pd.Timestamp.max, pd.NaT, pd.NA,
     pd.Timestamp("2026-10-25 01:30", tz="UTC").tz_convert("Europe/Berlin"), pd.Timedelta(5, "ns"), pd.Timestamp("2026").as_unit("s")],
    ids=repr,
)  # fmt: skip
def test_scalars_of_pandas(value):
    found = PACK.loads(PACK.dumps([value]))[0]
    assert type(found) is type(value)
    assert found is value or (found == value and found.unit == value.unit)
    assert getattr(found, "fold", 0) == getattr(value, "fold", 0)
    assert str(found) == str(value)


# ---- Arrow -------------------------------------------------------------------------------------------


def test_tables():
    for table in (
        pa.table({"a": [1, None, 3], "s": ["x", None, "z"], "l": [[1], [], None]}), pa.table({}), pa.table({"a": pa.chunked_array([[1], [2, 3]])}),
        pa.table({"d": pa.array(["x", "y", "x"]).dictionary_encode()}, metadata={"k": "v"}), pa.table({"a": [1, 2, 3]}).slice(1, 1),
    ):  # fmt: skip
        found = back(ARROW, table)
        assert found.schema.equals(table.schema, check_metadata=True)
        assert found.equals(table)


@pytest.mark.parametrize(
    "value", [1, "a", None, [1], {"a": pd.DataFrame()}, pa.array([1]), pd.Timestamp("2026"), pd.NaT, object()]
)
def test_arrow_has_tables_and_arrays_alone(value):
    with pytest.raises(Unserializable):
        ARROW.dumps(value)


def test_columns_are_neither_copied_nor_frozen():
    """Written from where they are, and read where the record is."""
    frame = pd.DataFrame({"a": np.arange(10_000), "b": np.arange(10_000.0), "t": pd.date_range("2026", periods=10_000)})
    parts = ARROW.dumps(frame)
    addresses = {part.address for part in parts if isinstance(part, pa.Buffer)}
    for name in frame:
        assert frame[name].to_numpy().ctypes.data in addresses
    data = bytearray(12) + joined(parts)  # as a record has it
    memory = np.frombuffer(data, "u1")
    found = ARROW.loads(memoryview(data)[12:])
    for name in frame:
        column = found[name].to_numpy()
        assert np.shares_memory(column, memory), name
        assert column.flags.aligned
    found.loc[0, "a"] = 7
    assert found["a"].iloc[0] == 7


@settings(max_examples=200)
@given(st.data())
def test_damaged_arrow(data):
    """An exception, or a value: no crash. A record's checksum is looked at before."""
    frame = pd.DataFrame(
        {
            "a": [1, 2, 3],
            "s": ["x", "yy", None],
            "c": pd.Categorical(["u", "v", None]),
            "i": pd.array([1, None, 2], "Int8"),
        }
    )
    good = bytearray(joined(ARROW.dumps(frame)))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    good = good[: data.draw(st.integers(0, len(good)) | st.just(len(good)))]
    try:
        repr(ARROW.loads(bytes(good)))
    except Exception as error:
        assert not isinstance(error, SystemError)


@given(st.binary(max_size=300))
def test_bytes_that_are_no_arrow(data):
    with pytest.raises(Exception):  # noqa: B017
        ARROW.loads(data)


# ---- pydantic and msgspec ----------------------------------------------------------------------------


class Address(pydantic.BaseModel):
    street: str
    number: int = 1


class Person(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    name: str
    born: dt.date | None = None
    homes: tuple[Address, ...] = ()
    _secret: int = pydantic.PrivateAttr(default=5)


class Root(pydantic.RootModel[list[int]]):
    pass


T = TypeVar("T")


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


class Computed(pydantic.BaseModel):
    x: int

    @functools.cached_property
    def twice(self):
        return self.x * 2


@pydantic.dataclasses.dataclass
class Checked:
    x: int


def test_models():
    for value in (
        Address(street="a"), Address(street="a", number=1), Person(name="n", born=dt.date(2000, 1, 2), homes=(Address(street="b"),), more={1, 2}),
        Root([1, 2]), Page(items=[1]), Checked(5), Address.model_construct(street=5, number="not a number"), Computed(x=1),
    ):  # fmt: skip
        found = PACK.loads(PACK.dumps([value]))[0]
        assert type(found) is type(value)
        assert found == value
        assert getattr(found, "model_fields_set", None) == getattr(value, "model_fields_set", None)
    person = Person(name="n")
    person.__pydantic_private__["_secret"] = 6
    assert PACK.loads(PACK.dumps(person))._secret == 6


def test_models_that_are_refused():
    computed = Computed(x=1)
    assert computed.twice == 2

    class Local(pydantic.BaseModel):
        x: int

    for value in (computed, Page[int](items=[1]), Local(x=1), Person(name="n", more=object())):
        with pytest.raises(Unserializable):
            PACK.dumps(value)


made = []


class Struct(msgspec.Struct, kw_only=True, frozen=True):
    a: int
    b: "str | msgspec.UnsetType" = msgspec.UNSET
    c: Any = None

    def __post_init__(self):
        made.append(self.a)


class Open(msgspec.Struct, dict=True):
    x: list


def test_structs():
    for value in (Struct(a=1), Struct(a=2, b="x", c=(1, Struct(a=3))), Open([1])):
        found = PACK.loads(PACK.dumps({"x": value}))["x"]
        assert type(found) is type(value)
        assert found == value
    assert PACK.loads(PACK.dumps(Struct(a=1))).b is msgspec.UNSET
    extra = Open([1])
    extra.other = 5

    class Local(msgspec.Struct):
        x: int

    for value in (extra, Local(1), Struct(a=1, c=object())):
        with pytest.raises(Unserializable):
            PACK.dumps(value)


def test_classes_that_have_changed(monkeypatch):
    for value, changed in (
        (Address(street="a"), pydantic.create_model("Address", street=(str, ...), __module__=__name__)),
        (Struct(a=1), msgspec.defstruct("Struct", ["a"], module=__name__)),
    ):
        data = PACK.dumps(value)
        assert PACK.loads(data) == value
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules[__name__], type(value).__name__, changed)
            with pytest.raises(TypeError, match="other fields"):
                PACK.loads(data)


# ---- types of one's own ------------------------------------------------------------------------------


class Money:
    def __init__(self, amount, currency):
        self.amount, self.currency = amount, currency

    def __eq__(self, other):
        return vars(self) == vars(other)


@pytest.fixture
def forms():
    saved = dict(_forms._types), dict(_forms._names)
    yield
    for kept, before in zip((_forms._types, _forms._names), saved):
        kept.clear()
        kept.update(before)


def test_register(forms):
    value = {"price": [Money(decimal.Decimal("1.50"), "EUR")]}
    with pytest.raises(Unserializable, match="Money"):
        PACK.dumps(value)
    register(Money, "shop.money", lambda x: (x.amount, x.currency), lambda parts: Money(*parts))
    data = PACK.dumps(value)
    assert PACK.loads(data) == value
    _forms._names.clear()
    with pytest.raises(Exception):  # noqa: B017
        PACK.loads(data)
    register(Money, "shop.money", lambda x: (x.amount, x.currency), lambda parts: Money(*parts))
    assert PACK.loads(data) == value, "registered again, as by a module that is reloaded"

    class Dear(Money):
        pass

    with pytest.raises(Unserializable):
        PACK.dumps(Dear(1, "EUR"))
    register(Dear, "shop.dear", lambda x: object(), Dear)
    with pytest.raises(Unserializable):
        PACK.dumps(Dear(1, "EUR"))
    register(Dear, "shop.dear", lambda x: x, Dear)  # it never becomes plain
    with pytest.raises(Unserializable):
        PACK.dumps(Dear(1, "EUR"))
    register(Dear, "shop.dear", lambda x: 1 / 0, Dear)
    with pytest.raises(Unserializable, match="division"):
        PACK.dumps(Dear(1, "EUR"))


def test_register_goes_before_the_package(forms):
    register(decimal.Decimal, "cents", lambda x: int(x * 100), lambda cents: decimal.Decimal(cents) / 100)
    assert PACK.loads(PACK.dumps([decimal.Decimal("1.5")])) == [decimal.Decimal("1.5")]
    assert b"cents" in PACK.dumps(decimal.Decimal("1.5"))


def test_register_refuses(forms):
    register(Money, "money", vars, lambda x: Money(**x))

    class Other:
        pass

    for bad in (5, "Money", None, int, str, list, dict, bytes, tuple, float, bool):
        with pytest.raises(TypeError):
            register(bad, "x", vars, vars)
    for name in ("", 5, None, "numpy.mine", "pandas"):
        with pytest.raises(ValueError):
            register(Other, name, vars, vars)
    with pytest.raises(ValueError, match="already"):
        register(Other, "money", vars, vars)
    with pytest.raises(TypeError):
        register(Other, "other", 5, vars)
    with pytest.raises(TypeError):
        register(Other, "other", vars, None)


# ---- through a cache ---------------------------------------------------------------------------------


def test_a_serializer_for_one_function():
    shelf = Shelf()
    with Cache(storage=shelf) as cache:
        calls = []

        def value():
            calls.append(1)
            return pd.DataFrame({"a": [1.5, 2.5]})

        f = cache.cacheable(namespace="f", serializer="arrow")(value)
        g = cache.cacheable(namespace="g")(value)
        text = cache.cacheable(namespace="j", serializer="json")(lambda: {"needle": [1, 2]})
        first = f()
        g(), text()
        assert any(b'{"needle":[1,2]}' in record for record in shelf.records.values())
        evict(cache)
        equal(f(), first)
        equal(g(), first)
        assert text() == {"needle": [1, 2]}
        assert len(calls) == 2
        assert cache.stats().hits_storage == 3
        h = cache.cacheable(namespace="f", serializer="pickle")(value)  # what the other has written is a miss
        equal(h(), first)
        assert len(calls) == 3


def test_what_one_function_cannot_store_is_counted(caplog):
    shelf = Shelf()
    with Cache(storage=shelf) as cache:
        f = cache.cacheable(namespace="f", serializer="json")(lambda: (1, 2))
        assert f() == (1, 2)
        assert f() == (1, 2)
        assert cache.stats().unserializable == 1
        assert not shelf.records
        assert "JSON" in caplog.text


@pytest.mark.parametrize("bad", [{"serializer": "yaml"}, {"serializer": 5}, {"compression": "lz4"}, {"compression": 2}])
def test_options_that_are_refused(bad):
    with Cache() as cache, pytest.raises(ValueError, match="serializer|compression"):
        cache.cacheable(**bad)(lambda: 1)
    with pytest.raises(ValueError, match="serializer|compression"):
        Cache(storage=Shelf(), **bad)


def stored(serializer="msgpack", **options):
    """The bytes that two functions' values take, the second with an option of its own."""
    shelf = Shelf()
    with Cache(storage=shelf, serializer=serializer, **options) as cache:
        sizes = []
        for more in ({}, {"compression": True}, {"compression": False}):
            value = np.zeros(1000) if serializer == "arrow" else "x" * 8000
            f = cache.cacheable(namespace="f", **more)(lambda: value)
            shelf.records.clear()
            f()
            (record,) = shelf.records.values()
            sizes.append(len(record))
            evict(cache)
            f.cache_clear()
        return [size < 4000 for size in sizes]


def test_compression():
    assert stored() == [True, True, False]
    assert stored(compression=True) == [True, True, False]
    assert stored(compression=False) == [False, True, False]
    assert stored("arrow") == [False, True, False], "columns are not compressed by themselves"
    assert stored("arrow", compression=True) == [True, True, False]


def peak(work):
    """What a call returns, and by how many bytes the process was larger meanwhile."""
    import gc
    import re

    def most():
        with open("/proc/self/status") as status:
            return int(re.search(r"VmHWM:\s+(\d+)", status.read())[1]) * 1024

    gc.collect()
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")
    before = most()
    result = work()
    return result, most() - before


@pytest.mark.plain
@needs_lmdb
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
def test_a_large_frame_is_copied_once_each_way(tmp_path):
    frame = pd.DataFrame({name: np.random.default_rng(1).random(500_000) for name in "abcde"})
    size = frame.memory_usage().sum()
    url = f"lmdb://{tmp_path}"
    with Cache(storage_url=url, serializer="arrow") as cache:
        _, more = peak(lambda: cache.set("frame", frame))
        assert more < 1.5 * size
    with Cache(storage_url=url, serializer="arrow") as cache:
        found, more = peak(lambda: cache.get("frame"))
        assert more < 1.5 * size
        cache.set("frame", frame * 2)
        cache.delete("frame")
    pd.testing.assert_frame_equal(found, frame)  # it needs neither the entry nor the cache


@needs_lmdb
def test_large_values_in_lmdb(tmp_path):
    """They go past the library's table; what is said of them holds all the same."""
    url, array = f"lmdb://{tmp_path}", np.arange(100_000)
    with Cache(storage_url=url, serializer="arrow") as one, Cache(storage_url=f"{url}x", serializer="arrow") as other:
        one.set("kept", array, deps=["a"])
        one.set("many", array, deps=[f"tag:{i}" for i in range(40)])
        one.set("brief", array, ttl=1e-3)
        one.set("gone", array, deps=["b"])
        one.set("gone", array + 1, deps=["b"])
        one.invalidate("b")
        one.set("small", array[:3])
        other.set("kept", array)
        assert other.stats().entries == 1
    with Cache(storage_url=url, serializer="arrow") as cache:
        for name in ("kept", "many"):
            np.testing.assert_array_equal(cache.get(name), array)
        np.testing.assert_array_equal(cache.get("small"), array[:3])
        assert cache.get("gone") is None and cache.get("brief") is None and cache.get("none") is None
        cache.invalidate("tag:39")
        assert cache.get("many") is None
        assert cache.get("kept") is not None
        cache.invalidate("a")
        assert cache.get("kept") is None
        assert cache.stats().hits_storage == 3


@needs_lmdb
def test_lmdb(tmp_path):
    frame = pd.DataFrame({name: pd.Series(column) for name, column in COLUMNS.items()})
    big = pd.DataFrame(np.random.default_rng(5).random((50_000, 5)))
    calls = []
    for _ in range(2):
        with Cache(storage_url=f"lmdb://{tmp_path}", serializer="arrow") as cache:

            @cache.cacheable(namespace="n", deps=["t"])
            def f(which):
                calls.append(which)
                return frame if which == "small" else big

            equal(f("small"), frame)
            equal(f("big"), big)
    assert calls == ["small", "big"]

"""Objects of pandas as data: frames, series and indices are taken apart into vectors, and these into arrays.

A vector is a column or an index: ``(how, arrays)``. ``how`` is plain data that says what it is:

    ["numpy"]                           one array, of any dtype but object
    ["object"]                          one array of objects
    ["string", storage, nan]            strings, the missing ones None; nan: as pandas shows these
    ["category", ordered, vector how]   codes, and the vector of the categories
    ["masked", dtype]                   values, and where there are none
    ["zoned", zone]                     the times in UTC

What has more to it (other extension arrays, attrs, derived classes) is refused: it would not come back as it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from zoocache.serializers._forms import Form, refuse

__all__ = ["FORMS", "apart", "form_of", "put_together", "take_apart", "whole"]

_MASKED = {
    kind.name: kind
    for kind in (
        pd.Int8Dtype(), pd.Int16Dtype(), pd.Int32Dtype(), pd.Int64Dtype(), pd.UInt8Dtype(), pd.UInt16Dtype(),
        pd.UInt32Dtype(), pd.UInt64Dtype(), pd.Float32Dtype(), pd.Float64Dtype(), pd.BooleanDtype(),
    )
}  # fmt: skip


# ---- vectors -----------------------------------------------------------------------------------------


def apart(x: Any) -> tuple[list[Any], list[Any]]:
    """A series or an index as (how, arrays)."""
    dtype = x.dtype
    if isinstance(dtype, np.dtype):
        return ["object" if dtype.kind == "O" else "numpy"], [x.to_numpy()]
    if type(dtype) is pd.StringDtype:
        return ["string", dtype.storage, dtype.na_value is not pd.NA], [x.array]
    if type(dtype) is pd.CategoricalDtype:
        how, arrays = apart(dtype.categories)
        if type(dtype.categories) is pd.MultiIndex or how[0] not in ("numpy", "object", "string", "zoned"):
            refuse(f"a column of dtype {dtype}", "its categories have no form")
        return ["category", bool(dtype.ordered), how], [np.asarray(x.array.codes), *arrays]
    if _MASKED.get(dtype.name) == dtype:
        return _masked(x, dtype)
    if type(dtype) is pd.DatetimeTZDtype:
        zone = zone_text(dtype.tz)
        return ["zoned", zone], [pd.DatetimeIndex(x).tz_convert(None).to_numpy()]
    refuse(f"a column of dtype {dtype}", "it has no form")


def _masked(x: Any, dtype: Any) -> tuple[list[Any], list[Any]]:
    values = x.array.to_numpy(dtype=dtype.numpy_dtype, na_value=dtype.numpy_dtype.type(0))
    if values.dtype.kind == "f" and np.isnan(values).any():
        refuse(f"a column of dtype {dtype}", "of a value that is NaN it is not known whether it is missing")
    return ["masked", dtype.name], [values, np.asarray(x.isna())]


def zone_text(zone: Any) -> str:
    """A time zone as pandas finds it again."""
    text = str(zone)
    try:
        found = pd.DatetimeTZDtype("ns", text).tz
    except Exception:
        found = None
    if type(found) is not type(zone) or str(found) != text:
        refuse(f"the time zone {text}", "pandas does not find it by its name")
    return text


def string_dtype(how: list[Any]) -> Any:
    """The dtype of strings."""
    _, storage, nan = how
    return pd.StringDtype(storage, na_value=np.nan) if nan else pd.StringDtype(storage)


def whole(how: list[Any], arrays: list[Any]) -> Any:
    """The array, of NumPy or pandas, of a vector's (how, arrays)."""
    first = arrays[0]
    if how[0] in ("numpy", "object", "string"):
        return first
    if how[0] == "category":
        return pd.Categorical.from_codes(first, dtype=pd.CategoricalDtype(index(how[2], arrays[1:]), how[1]))
    if how[0] == "masked":
        dtype = _MASKED[how[1]]
        return dtype.construct_array_type()(first, arrays[1])
    if how[0] == "zoned":
        return pd.DatetimeIndex(first).tz_localize("UTC").tz_convert(how[1]).array
    raise ValueError(how)


def index(how: list[Any], arrays: list[Any], name: Any = None) -> Any:
    """An index of a vector."""
    values = whole(how, arrays)
    return pd.Index(values, dtype=object if how[0] == "object" else None, name=name, copy=False)


# ---- what is made of vectors -------------------------------------------------------------------------

Vectors = list[tuple[list[Any], list[Any]]]


def _index_apart(x: Any, vectors: Vectors) -> list[Any]:
    """Plain data that say how the index is made of the vectors that it adds."""
    kind = type(x)
    if kind is pd.RangeIndex:
        return ["range", x.start, x.stop, x.step, _label(x.name)]
    if kind is pd.MultiIndex:
        for level, codes in zip(x.levels, x.codes):
            vectors.append(apart(pd.Series(pd.Categorical.from_codes(codes, level))))
        return ["levels", x.nlevels, [_label(name) for name in x.names]]
    if kind not in (pd.Index, pd.DatetimeIndex, pd.TimedeltaIndex, pd.CategoricalIndex):
        refuse(f"{kind.__name__} objects", "they have no form")
    freq = getattr(x, "freq", None)
    if freq is not None and pd.tseries.frequencies.to_offset(freq.freqstr) != freq:
        refuse(f"an index with the frequency {freq}", "its name says less")
    vectors.append(apart(x))
    return ["index", None if freq is None else freq.freqstr, _label(x.name)]


def _index_whole(form: list[Any], vectors: Vectors) -> Any:
    if form[0] == "range":
        return pd.RangeIndex(*form[1:4], name=form[4])
    if form[0] == "levels":
        parts = [whole(*vectors.pop(0)) for _ in range(form[1])]
        return pd.MultiIndex(
            levels=[x.categories for x in parts], codes=[x.codes for x in parts], names=form[2], verify_integrity=False
        )
    found = index(*vectors.pop(0), name=form[2])
    if form[1] is not None:
        found = type(found)(found, freq=form[1], copy=False)
    return found


def _label(x: Any) -> Any:
    if x is not None and type(x) not in (str, int, bool):
        refuse(f"a name of type {type(x).__name__}", "only None, str, int and bool are")
    return x


def _labels_apart(x: Any) -> list[Any]:
    """The names of columns, which are no vector: there may be as many of them as they like."""
    if type(x) is pd.RangeIndex:
        return _index_apart(x, [])
    how, _ = (None, None) if type(x) is not pd.Index else apart(x)
    if how is None or (how[0] == "numpy" and x.dtype != np.int64):
        refuse("a DataFrame whose columns have such names", f"{type(x).__name__} of {x.dtype} has no form")
    return ["labels", how, [_label(name) for name in x.tolist()], _label(x.name)]


def _labels_whole(form: list[Any]) -> Any:
    if form[0] == "range":
        return _index_whole(form, [])
    dtype = {"numpy": np.dtype("i8"), "object": np.dtype(object)}.get(form[1][0])
    return pd.Index(form[2], dtype=string_dtype(form[1]) if dtype is None else dtype, name=form[3])


def take_apart(x: Any) -> tuple[list[Any], Vectors]:
    """A frame, a series or an index: plain data, and the vectors."""
    vectors: Vectors = []
    if isinstance(x, pd.Index):
        return ["index", _index_apart(x, vectors)], vectors
    if x.attrs or not x.flags.allows_duplicate_labels:
        refuse(f"a {type(x).__name__} with attrs or flags", "they have no form")
    form = _index_apart(x.index, vectors)
    if type(x) is pd.Series:
        vectors.append(apart(x))
        return ["series", form, _label(x.name)], vectors
    vectors += [apart(x.iloc[:, place]) for place in range(x.shape[1])]
    return ["frame", form, _labels_apart(x.columns)], vectors


def put_together(form: list[Any], vectors: Vectors) -> Any:
    """The value, made of the arrays as they are."""
    rest = list(vectors)
    rows = _index_whole(form[1], rest)
    if form[0] == "index":
        return rows
    if form[0] == "series":
        (how, arrays) = rest.pop()
        dtype = object if how[0] == "object" else None
        return pd.Series(whole(how, arrays), index=rows, name=form[2], dtype=dtype, copy=False)
    columns = {
        place: pd.Series(whole(how, arrays), index=rows, dtype=object if how[0] == "object" else None, copy=False)
        for place, (how, arrays) in enumerate(rest)
    }
    frame = pd.DataFrame(columns, index=rows, copy=False)
    frame.columns = _labels_whole(form[2])
    return frame


# ---- inside of MessagePack ---------------------------------------------------------------------------


def _flat(how: list[Any], arrays: list[Any]) -> list[Any]:
    """A vector as what MessagePack stores: strings are a list of them."""
    last = how[2] if how[0] == "category" else how
    if last[0] == "string":
        texts = arrays[-1].to_numpy(dtype=object, na_value=None).tolist()
        arrays = [*arrays[:-1], texts]
    return [how, arrays]


def _round(flat: list[Any]) -> tuple[list[Any], list[Any]]:
    how, arrays = flat
    last = how[2] if how[0] == "category" else how
    if last[0] == "string":
        arrays = [*arrays[:-1], pd.array(arrays[-1], dtype=string_dtype(last))]
    return how, arrays


def _parts(x: Any) -> list[Any]:
    form, vectors = take_apart(x)
    return [form, [_flat(*vector) for vector in vectors]]


def _made(parts: list[Any]) -> Any:
    return put_together(parts[0], [_round(flat) for flat in parts[1]])


def _time_parts(x: Any) -> list[Any]:
    zone = getattr(x, "tz", None)
    parts = [int(x.asm8.astype("i8")), x.unit, None if zone is None else zone_text(zone)]
    back = _time(parts) if type(x) is pd.Timestamp else _span(parts)
    if back != x or back.unit != x.unit or getattr(back, "fold", 0) != getattr(x, "fold", 0):
        refuse(f"{type(x).__name__} {x!r}", "it has more to it")
    return parts


def _time(parts: list[Any]) -> Any:
    at = pd.Timestamp(np.datetime64(parts[0], parts[1]))
    return at if parts[2] is None else at.tz_localize("UTC").tz_convert(parts[2])


def _span(parts: list[Any]) -> Any:
    return pd.Timedelta(np.timedelta64(parts[0], parts[1]))


_ONES = {"NaT": pd.NaT, "NA": pd.NA}
_TAKEN_APART = (pd.DataFrame, pd.Series, pd.Index, pd.RangeIndex, pd.MultiIndex, pd.DatetimeIndex, pd.TimedeltaIndex,
                pd.CategoricalIndex)  # fmt: skip

FORMS = {
    form.name: form
    for form in (
        Form("pandas.parts", _parts, _made),
        Form("pandas.time", _time_parts, _time),
        Form("pandas.span", _time_parts, _span),
        Form("pandas.one", lambda x: "NaT" if x is pd.NaT else "NA", _ONES.__getitem__),
    )
}

_KINDS = {
    **dict.fromkeys(_TAKEN_APART, FORMS["pandas.parts"]),
    **dict.fromkeys(map(type, _ONES.values()), FORMS["pandas.one"]),
    pd.Timestamp: FORMS["pandas.time"],
    pd.Timedelta: FORMS["pandas.span"],
}


def form_of(kind: type) -> Form | None:
    """The form of this type's values; none of a class derived from one of pandas'."""
    return _KINDS.get(kind)

"""Arrow's IPC format: DataFrames, tables and arrays, whose buffers are written and read as they lie in memory.

A value of NumPy or pandas is taken apart into arrays (see _pandas), each of which is a column of one record batch;
what the columns are, and how they are put together, is JSON in the metadata of the schema. Columns of numbers are
neither converted nor looked at: NaN stays NaN. A table of pyarrow is what it is.
"""

from __future__ import annotations

import json
from typing import Any

from zoocache._errors import Unserializable
from zoocache.serializers._forms import need, refuse

__all__ = ["Arrow"]

_META = b"zoocache"
_NUMBERS = frozenset(["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
_AHEAD = bytes(52)  # with the 12 bytes that are in front of every value: the buffers are where they should be


class _Parts:
    """A file that keeps what is written to it, without a copy."""

    closed = False

    def __init__(self) -> None:
        self.parts: list[Any] = [_AHEAD]

    def write(self, data: Any) -> int:
        self.parts.append(data)
        return len(data)

    def flush(self) -> None: ...
    def close(self) -> None: ...


class Arrow:
    """Arrow, by pyarrow: pandas' DataFrame, Series and Index, NumPy's arrays, pyarrow's Table."""

    name = "arrow"
    compress = False  # numbers hardly shrink, and a column that is packed cannot be read where it stands

    def __init__(self) -> None:
        self._pa = need("pyarrow", "arrow")
        self._np = need("numpy", "arrow")

    def dumps(self, value: Any) -> list[Any]:
        """The bytes of a value, in parts: those of its columns are the columns themselves."""
        try:
            table = self._table(value)
            sink = _Parts()
            with self._pa.ipc.new_stream(self._pa.PythonFile(sink, mode="w"), table.schema) as writer:
                writer.write(table)
            return sink.parts
        except Unserializable:
            raise
        except Exception as error:  # pyarrow's own are of many kinds
            raise Unserializable(f"cannot be stored by the Arrow serializer: {error}") from error

    def loads(self, data: bytes | memoryview) -> Any:
        """The value: what is numbers in it are views of the data."""
        data = memoryview(data)
        table = self._pa.ipc.open_stream(self._pa.py_buffer(data[len(_AHEAD) :])).read_all()
        table.validate(full=True)  # no offset leads out of it
        text = (table.schema.metadata or {}).get(_META)
        if text is None:
            return table
        form, columns = json.loads(text)
        vectors = [
            (how, self._arrays(how, more, table.column(place).chunk(0), data))
            for place, (how, more) in enumerate(columns)
        ]
        if form[0] == "array":
            return vectors[0][1][0].reshape(form[1], order=form[2])
        from zoocache.serializers._pandas import put_together

        return put_together(form, vectors)

    # ---- to Arrow ----------------------------------------------------------------------------------

    def _table(self, value: Any) -> Any:
        """A value as what Arrow writes."""
        kind = type(value)
        if kind is self._pa.Table:
            if _META in (value.schema.metadata or {}):
                refuse("a table", f"its metadata have {_META!r}, which is taken")
            return value
        if kind is self._np.ndarray:
            order = "C" if value.flags.c_contiguous or not value.flags.f_contiguous else "F"
            form, vectors = ["array", list(value.shape), order], [(["numpy"], [value.ravel(order)])]
        elif kind.__module__.partition(".")[0] == "pandas":
            from zoocache.serializers._pandas import take_apart

            form, vectors = take_apart(value)
        else:
            refuse(f"{kind.__module__}.{kind.__qualname__} objects", "Arrow has tables and arrays alone")
        columns = [(how, *self._column(how, arrays)) for how, arrays in vectors]
        meta = json.dumps([form, [[how, more] for how, _, more in columns]])
        arrays = [array for _, array, _ in columns]
        schema = self._pa.schema([(str(place), x.type) for place, x in enumerate(arrays)], {_META: meta})
        return self._pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _column(self, how: list[Any], arrays: list[Any]) -> tuple[Any, Any]:
        """An array of Arrow for a vector, and what else is to be known of it."""
        pa, first = self._pa, arrays[0]
        if how[0] == "object":
            return self._texts(first)
        if how[0] == "string":
            texts = pa.array(first, type=pa.large_string())
            return (texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts), None
        if how[0] == "masked":
            return pa.array(first, mask=arrays[1]), None
        if how[0] == "category":
            values, more = self._column(how[2], arrays[1:])
            return pa.DictionaryArray.from_arrays(pa.array(first, mask=first < 0), values), more
        return self._raw(first)

    def _raw(self, x: Any) -> tuple[Any, Any]:
        """An array of NumPy, as it lies in memory."""
        from zoocache.serializers._numpy import text_of_dtype

        pa, dtype = self._pa, x.dtype
        text = text_of_dtype(dtype)
        if type(text) is not str or not dtype.itemsize:
            refuse(f"an array of dtype {dtype}", "Arrow has no such columns")
        plain = dtype.isnative and text[1:] in _NUMBERS
        kind = pa.from_numpy_dtype(dtype) if plain else pa.binary(dtype.itemsize)
        data = self._np.ascontiguousarray(x).view("u1") if x.size else b""
        return pa.Array.from_buffers(kind, x.size, [None, pa.py_buffer(data)]), text

    def _texts(self, x: Any) -> tuple[Any, Any]:
        """An array of objects that are texts, or missing in one way."""
        kinds = set(map(type, x))
        missing = kinds - {str}
        nan = missing == {float} and all(text != text for text in x if type(text) is float)
        if missing and missing != {type(None)} and not nan:
            refuse("a column of objects", "Arrow has texts, missing as None or as NaN, and no others")
        return self._pa.array(x, type=self._pa.large_string(), from_pandas=True), nan

    # ---- from Arrow --------------------------------------------------------------------------------

    def _arrays(self, how: list[Any], more: Any, x: Any, data: memoryview) -> list[Any]:
        """The arrays of a vector."""
        if how[0] == "object":
            texts = x.to_numpy(zero_copy_only=False)
            if more:
                texts[x.is_null().to_numpy(zero_copy_only=False)] = self._np.nan
            return [texts]
        if how[0] == "string":
            from zoocache.serializers._pandas import string_dtype

            return [string_dtype(how).__from_arrow__(x)]
        if how[0] == "masked":
            mask = x.is_null().to_numpy(zero_copy_only=False)
            return [x.fill_null(0 if x.type != self._pa.bool_() else False).to_numpy(zero_copy_only=False), mask]
        if how[0] == "category":
            codes = x.indices.fill_null(-1).to_numpy()
            return [codes, *self._arrays(how[2], more, x.dictionary, data)]
        return [self._view(more, x, data)]

    def _view(self, text: str, x: Any, data: memoryview) -> Any:
        """An array of NumPy over a column, where it is; as writable as the data are."""
        from zoocache.serializers._numpy import dtype_of

        np, dtype, buffer = self._np, dtype_of(text), x.buffers()[1]
        if not len(x):
            return np.empty(0, dtype)
        at = buffer.address - self._pa.py_buffer(data).address
        if not 0 <= at <= data.nbytes - buffer.size:  # pyarrow has moved it
            data, at = buffer, 0
        return np.frombuffer(data, dtype, len(x), at + x.offset * dtype.itemsize)

"""Arrays and scalars of NumPy as data: their bytes, and a dtype that says all there is to say about them."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoocache.serializers._forms import Form, refuse

__all__ = ["FORMS", "dtype_of", "form_of", "text_of_dtype"]


def text_of_dtype(dtype: Any) -> Any:
    """A dtype as NumPy's own files have it. Refuses one that would come back as another, or whose data are objects."""
    if dtype.kind not in "biufcmMSUV" or dtype.hasobject or dtype.metadata:
        refuse(f"an array of dtype {dtype}", "it has no form of its own in bytes")
    text = np.lib.format.dtype_to_descr(dtype)
    if np.lib.format.descr_to_dtype(text) != dtype:
        refuse(f"an array of dtype {dtype}", "NumPy's own files do not have it")
    return text


def dtype_of(text: Any) -> Any:
    """The dtype."""
    dtype: Any = np.lib.format.descr_to_dtype(text)
    if dtype.hasobject:
        raise ValueError("bytes are no objects")
    return dtype


def _array_parts(x: Any) -> list[Any]:
    shape = list(x.shape)
    if x.dtype.kind == "O":
        return ["O", shape, "C", x.ravel().tolist()]
    order = "C" if x.flags.c_contiguous or not x.flags.f_contiguous else "F"
    return [text_of_dtype(x.dtype), shape, order, x.tobytes(order)]


def _array(parts: list[Any]) -> Any:
    text, shape, order, data = parts
    array: Any
    if text == "O":
        array = np.empty(len(data), object)
        array[:] = data
        return array.reshape(shape)
    dtype = dtype_of(text)
    if not dtype.itemsize:
        return np.empty(shape, dtype)
    if not data:
        return np.empty(0, dtype).reshape(shape)
    return np.frombuffer(bytearray(data), dtype).reshape(shape, order=order)


def _scalar_parts(x: Any) -> list[Any]:
    parts = [text_of_dtype(x.dtype), x.tobytes()]
    back = _scalar(parts)
    if type(back) is not type(x) or back.dtype != x.dtype or back.tobytes() != x.tobytes():
        refuse(f"{type(x).__name__} {x!r}", "NumPy makes another one of its bytes")
    return parts


def _scalar(parts: list[Any]) -> Any:
    return np.frombuffer(bytearray(parts[1]), dtype_of(parts[0]))[0]


FORMS = {
    form.name: form
    for form in (Form("numpy.array", _array_parts, _array), Form("numpy.scalar", _scalar_parts, _scalar))
}


def form_of(kind: type) -> Form | None:
    """The form of this type's values. A class derived from one of NumPy's has more to it."""
    if kind is np.ndarray:
        return FORMS["numpy.array"]
    own = issubclass(kind, np.generic) and kind.__module__ == "numpy"
    return FORMS["numpy.scalar"] if own else None

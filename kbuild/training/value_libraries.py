"""What values of well-known libraries hold, for ``value_digest``; a library that is not imported has none here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any


class Inner:
    """A part that is a value itself, to be taken by what it holds."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    # Not what is made from an array, which may hold more: a mask, units.
    return numpy is not None and (type(value) in (numpy.ndarray, numpy.memmap) or isinstance(value, numpy.generic))


def _look_array(value: Any) -> Iterable[Any]:
    numpy = sys.modules["numpy"]
    array = numpy.asarray(value)
    yield repr((array.dtype.descr if array.dtype.names else array.dtype.str, array.shape)).encode()
    if array.dtype.names:
        # Between the fields there may be bytes that say nothing.
        yield from (part for name in array.dtype.names for part in _look_array(array[name]))
    elif array.dtype.hasobject:
        yield Inner(array.ravel().tolist())
    else:
        if array.dtype.kind in "fc" and numpy.isnan(array).any():
            array = numpy.where(numpy.isnan(array), numpy.nan, array)
        yield numpy.ascontiguousarray(array).reshape(-1).view(numpy.uint8)


def _is_masked(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(value) is numpy.ma.MaskedArray


def _look_masked(value: Any) -> Iterable[Any]:
    numpy = sys.modules["numpy"]
    yield Inner((numpy.asarray(value.data), numpy.ma.getmaskarray(value), numpy.asarray(value.fill_value)))


def _is_pandas(value: Any) -> bool:
    pandas = sys.modules.get("pandas")
    kinds = () if pandas is None else (pandas.DataFrame, pandas.Series)
    return type(value) in kinds or (pandas is not None and isinstance(value, pandas.Index))


def _look_pandas(value: Any) -> Iterable[Any]:
    pandas = sys.modules["pandas"]
    if isinstance(value, pandas.RangeIndex):
        yield Inner((value.start, value.stop, value.step, value.name))
    elif isinstance(value, pandas.MultiIndex):
        yield Inner((list(value.names), [value.get_level_values(level) for level in range(value.nlevels)]))
    elif isinstance(value, pandas.DataFrame):
        yield Inner((value.index, value.columns, dict(value.attrs)))
        yield from (Inner(value.iloc[:, place].array) for place in range(value.shape[1]))
    else:
        index = value.index if isinstance(value, pandas.Series) else None
        yield Inner((value.name, index, str(value.dtype), str(getattr(value, "freq", None)), value.array))


def _is_extension_array(value: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.api.extensions.ExtensionArray)


def _look_extension_array(value: Any) -> Iterable[Any]:
    pandas = sys.modules["pandas"]
    numpy = sys.modules["numpy"]
    yield str(value.dtype).encode()
    if isinstance(value, pandas.Categorical):
        yield Inner((value.categories, bool(value.ordered), numpy.asarray(value.codes)))
    elif value.dtype.kind in "mM":
        yield Inner(numpy.asarray(value.asi8) if hasattr(value, "asi8") else value.to_numpy())
    elif isinstance(value, pandas.arrays.NumpyExtensionArray) or (
        value.dtype.kind in "iufb" and not pandas.isna(value).any()
    ):
        yield Inner(value.to_numpy())
    else:
        yield Inner([None if missing else each for each, missing in zip(value, pandas.isna(value), strict=True)])


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _look_torch(value: Any) -> Iterable[Any]:
    plain = value.detach().cpu()
    yield repr((str(plain.dtype), tuple(plain.shape), value.requires_grad)).encode()
    torch = sys.modules["torch"]
    yield Inner(plain.contiguous().reshape(-1).view(torch.uint8).numpy())


def _is_polars(value: Any) -> bool:
    polars = sys.modules.get("polars")
    return polars is not None and isinstance(value, polars.DataFrame | polars.Series)


def _look_polars(value: Any) -> Iterable[Any]:
    polars = sys.modules["polars"]
    if isinstance(value, polars.DataFrame):
        yield from (Inner((name, value[name])) for name in value.columns)
    else:
        yield Inner((value.name, str(value.dtype), value.to_list()))


def _is_xgboost(value: Any) -> bool:
    xgboost = sys.modules.get("xgboost")
    return xgboost is not None and isinstance(value, xgboost.Booster)


def _look_xgboost(value: Any) -> Iterable[Any]:
    # Its pickle also holds how it was last asked, which changes with each question.
    yield bytes(value.save_raw("ubj"))
    yield Inner(dict(sorted(value.attributes().items())))


def _is_tree(value: Any) -> bool:
    return type(value).__module__.startswith("sklearn.neighbors.") and hasattr(value, "get_arrays")


def _look_tree(value: Any) -> Iterable[Any]:
    # Four numbers of its state count what it was asked, and change with each question.
    data, places, nodes, bounds, leaf, levels, size, _, _, _, _, *rest = value.__getstate__()
    yield Inner((data, places, nodes, bounds, leaf, levels, size, rest))


LIBRARIES: tuple[tuple[Callable[[Any], bool], Callable[[Any], Iterable[Any]]], ...] = (
    (_is_array, _look_array),
    (_is_masked, _look_masked),
    (_is_pandas, _look_pandas),
    (_is_extension_array, _look_extension_array),
    (_is_torch, _look_torch),
    (_is_polars, _look_polars),
    (_is_xgboost, _look_xgboost),
    (_is_tree, _look_tree),
)

"""The one meaning of "the same answer": used while a model is recorded, when it is served, verified and slimmed.

Training's processor is not the server's: numeric libraries choose other kernels there, which sum in another order and
so differ in the last bits. Structure, types, texts, integers and which values are missing do not depend on that.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_SHOWN = 80
_BEFORE = 20  # characters that are shown before the first that differs


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How far two floats may be apart: ``|a - b| <= max(relative * max(|a|, |b|), absolute)``, as ``math.isclose``.

    ``relative_single`` counts where both values are of single precision (each is one that 32 bits hold exactly, as
    every value of a float32 array is when it is written as JSON) and not both are whole: 1e-5 is about 84 steps of a
    float32.
    """

    relative: float = 1e-6
    absolute: float = 1e-9
    relative_single: float = 1e-5

    @property
    def exact(self) -> bool:
        """Whether nothing may differ."""
        return not (self.relative or self.absolute or self.relative_single)

    def allows(self, one: float, other: float) -> bool:
        """Whether two floats are the same; NaN is equal to NaN, and an infinity to itself alone."""
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        # Whole numbers of doubles (ids, counts, labels) are numbers of single precision too.
        whole = one == round(one) and other == round(other) if math.isfinite(one) and math.isfinite(other) else True
        single = not (self.exact or whole) and _is_single(one) and _is_single(other)
        relative = max(self.relative, self.relative_single) if single else self.relative
        return math.isclose(one, other, rel_tol=relative, abs_tol=self.absolute)

    def limited(self, *, rtol: float | None = None, atol: float | None = None) -> Tolerance:
        """With these limits in place of its own: ``rtol`` for floats of both precisions."""
        relative = (self.relative, self.relative_single) if rtol is None else (rtol, rtol)
        absolute = self.absolute if atol is None else atol
        return Tolerance(relative=relative[0], relative_single=relative[1], absolute=absolute)

    def to_json(self) -> str | dict[str, float] | None:
        """As ``from_json`` reads it; what is the default is left out, None where all is."""
        if self.exact:
            return "exact"
        own: dict[str, float] = {}
        if (self.relative, self.relative_single) != (DEFAULT.relative, DEFAULT.relative_single):
            own["rtol"] = self.relative
        if self.absolute != DEFAULT.absolute:
            own["atol"] = self.absolute
        return own or None

    @classmethod
    def from_json(cls, value: Any) -> Tolerance:
        """Read ``exact`` or ``{"rtol": …, "atol": …}``, as kbuild.yml and models have it; None is the default.

        Raises ValueError.
        """
        if value == "exact":
            return EXACT
        stated = {} if value is None else value
        if not isinstance(stated, dict) or not stated.keys() <= {"rtol", "atol"}:
            raise ValueError(f"{value!r} is not a tolerance: neither 'exact' nor rtol and atol")
        for number in stated.values():
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
                raise ValueError(f"{number!r} is not a tolerance: it has to be 0 or a positive number")
        return DEFAULT.limited(**stated)

    def __str__(self) -> str:
        return "exactly" if self.exact else f"within {self.relative:g} relative and {self.absolute:g} absolute"


DEFAULT = Tolerance()
"""Far above the noise of summing floats in another order, far below what a prediction means."""

EXACT = Tolerance(relative=0.0, absolute=0.0, relative_single=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Two values at ``path`` (``predictions[0].price``, empty for the whole answer); sizes are None but for numbers."""

    path: str
    expected: Any
    got: Any
    absolute: float | None = None
    relative: float | None = None

    def __str__(self) -> str:
        expected, got = _short(json.dumps(self.expected), json.dumps(self.got))
        text = f"{self.path or 'the answer'}: expected {expected}, got {got}"
        if self.absolute is None or self.relative is None:
            return text
        return f"{text}, off by {self.absolute:.3g} ({self.relative:.3g} relative)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """``fault`` is the first difference that is not tolerated, ``largest`` that of the floats with the largest relative
    one, tolerated or not; None where there is none."""

    fault: Difference | None = None
    largest: Difference | None = None

    @property
    def same(self) -> bool:
        """Whether the answers are the same."""
        return self.fault is None


def compare(expected: Any, got: Any, tolerance: Tolerance = DEFAULT) -> Comparison:
    """Compare two JSON values.

    The order of keys means nothing; that of lists, and the type of every value, does: 1, 1.0 and true are three values.
    """
    fault: Difference | None = None
    largest: Difference | None = None
    for difference in _differences(expected, got, ""):
        one, other = difference.expected, difference.got
        if isinstance(one, float) and isinstance(other, float):
            if _size(difference) > _size(largest):
                largest = difference
            if tolerance.allows(one, other):
                continue
        fault = fault or difference
    return Comparison(fault=fault, largest=largest)


def compare_texts(expected: str | bytes, got: str | bytes, tolerance: Tolerance = DEFAULT) -> Comparison:
    """Compare two JSON texts, and texts that are not JSON by their letters."""
    if expected == got:
        return Comparison()
    try:
        return compare(json.loads(expected), json.loads(got), tolerance)
    except ValueError:
        one, other = _text(expected), _text(got)
        return Comparison() if one == other else Comparison(fault=Difference(path="", expected=one, got=other))


def _differences(expected: Any, got: Any, path: str) -> Iterator[Difference]:
    # Not recursive: an answer may be nested deeper than Python's stack.
    pending = [(expected, got, path)]
    while pending:
        one, other, where = pending.pop()
        if type(one) is not type(other):
            yield Difference(path=where, expected=one, got=other)
        elif isinstance(one, dict):
            if one.keys() != other.keys():
                yield Difference(path=where, expected=one, got=other)
                continue
            pending += reversed([(one[key], other[key], f"{where}.{key}" if where else str(key)) for key in one])
        elif isinstance(one, list):
            if len(one) != len(other):
                yield Difference(path=where, expected=one, got=other)
                continue
            pairs = zip(one, other, strict=True)
            pending += reversed([(*pair, f"{where}[{index}]") for index, pair in enumerate(pairs)])
        elif one != other and not (isinstance(one, float) and math.isnan(one) and math.isnan(other)):
            yield _measured(one, other, where)


def _measured(one: Any, other: Any, where: str) -> Difference:
    plain = Difference(path=where, expected=one, got=other)
    if isinstance(one, bool) or not isinstance(one, int | float):
        return plain
    try:
        absolute = float(abs(one - other))
        relative = absolute / float(max(abs(one), abs(other)))
    except OverflowError:  # integers beyond any float
        return plain
    return Difference(path=where, expected=one, got=other, absolute=absolute, relative=relative)


def _size(difference: Difference | None) -> float:
    """For ordering: none is smallest, a missing or infinite value largest."""
    if difference is None:
        return -1.0
    relative = difference.relative
    return math.inf if relative is None or math.isnan(relative) else relative


def _is_single(value: float) -> bool:
    try:
        return bool(struct.unpack("f", struct.pack("f", value))[0] == value)
    except OverflowError:
        return False


def _short(expected: str, got: str) -> tuple[str, str]:
    """Of long texts the part in which they begin to differ."""
    same = next((place for place, (one, other) in enumerate(zip(expected, got, strict=False)) if one != other), 0)
    start = same - _BEFORE if max(len(expected), len(got)) > _SHOWN and same > 2 * _BEFORE else 0
    return _cut(expected, start), _cut(got, start)


def _cut(text: str, start: int) -> str:
    part = "…" + text[start:] if start else text
    return part if len(part) <= _SHOWN else part[: _SHOWN - 3] + "…"


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

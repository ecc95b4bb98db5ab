"""How numbers are written in tables, sentences and pages: one rule for each kind.

Every function takes a finite or missing number and gives text. `MISSING` stands for a number
that was not computed; infinity is written ∞; NaN is missing, so it is never printed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from curvlang.evaluation.statistics.interval import Interval

MISSING = "–"
MINUS = "−"
_TOO_SMALL = 1e-3
_TOO_LARGE = 1e4


def known(value: float | None) -> bool:
    """Whether there is a number to write."""
    return value is not None and not math.isnan(value)


def quantity(value: float | None) -> str:
    """An error or a loss to three significant digits, without the zero before the point.

    >>> quantity(0.3501), quantity(1.2345), quantity(0.0), quantity(3.2e-5), quantity(123456.0)
    ('.350', '1.23', '0', '3.2e-5', '1.2e5')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return MINUS + "∞" if value < 0 else "∞"
    size = abs(float(f"{value:.3g}"))
    if size == 0:
        return "0"
    if not _TOO_SMALL <= size < _TOO_LARGE:
        return _scientific(value, 1)
    decimals = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return _sign(f"{value:.{decimals}f}")


def correlation(value: float | None) -> str:
    """A number of [−1, 1] with three decimals; no negative zero.

    >>> correlation(0.634), correlation(-0.018), correlation(1.0), correlation(-1e-9)
    ('.634', '−.018', '1.000', '.000')
    """
    if value is None or math.isnan(value):
        return MISSING
    return _sign(f"{value:.3f}")


def difference(value: float) -> str:
    """A difference of correlations, its sign always shown.

    >>> difference(0.012), difference(-0.0301)
    ('+.012', '−.030')
    """
    text = correlation(value)
    return text if text == MISSING or text.startswith(MINUS) else "+" + text


def bounds(interval: Interval | None) -> str:
    """The interval alone; `MISSING` where it has no ends.

    >>> bounds(Interval(0.634, 0.61, 0.655))
    '[.610, .655]'
    """
    if interval is None or not (known(interval.low) and known(interval.high)):
        return MISSING
    return f"[{correlation(interval.low)}, {correlation(interval.high)}]"


def estimate(interval: Interval | None) -> str:
    """An estimate followed by its interval where there is one.

    >>> estimate(Interval(0.634, 0.61, 0.655)), estimate(Interval(0.5, math.nan, math.nan))
    ('.634 [.610, .655]', '.500')
    """
    if interval is None or not known(interval.estimate):
        return MISSING
    ends = bounds(interval)
    return correlation(interval.estimate) + ("" if ends == MISSING else " " + ends)


def share(value: float | None) -> str:
    """A part of the path's total, in percent with its sign.

    >>> share(0.403), share(-0.0312), share(0.0), share(123.4)
    ('+40.3 %', '−3.1 %', '+0.0 %', '+12340 %')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return MINUS + "∞" if value < 0 else "+∞"
    percent = 100 * value
    text = f"{abs(percent):.{0 if abs(percent) >= 1000 else 1}f}"
    return (MINUS if percent < 0 and float(text) > 0 else "+") + text + " %"


def setting(damping: float) -> str:
    """A λ as short as it can be written.

    >>> setting(0.01), setting(1e-5), setting(10.0), setting(0.00316227766), setting(0.0)
    ('.01', '1e-5', '10', '.00316', '0')
    >>> setting(1000.0)
    '1000'
    """
    if not math.isfinite(damping):
        return quantity(damping)
    if damping != 0 and not _TOO_SMALL <= abs(damping) < _TOO_LARGE:
        return _scientific(damping, 2)
    return _sign(f"{damping:.0f}" if abs(damping) >= 999.5 else f"{damping:.3g}")


def with_error(value: float | None, error: float | None) -> str:
    """A quantity with its standard error where it is estimated.

    >>> with_error(0.769, None), with_error(0.769, 0.0123), with_error(None, None)
    ('.769', '.769 ± .012', '–')
    """
    if value is None or not error:
        return quantity(value)
    return f"{quantity(value)} ± {quantity(error)}"


def duration(seconds: float) -> str:
    """A time span in the unit that fits it.

    >>> duration(0.0123), duration(4.56), duration(75.0), duration(7384.0)
    ('12 ms', '4.6 s', '1 min 15 s', '2 h 03 min')
    """
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def value(item: object) -> str:
    """A setting of a task or a recipe as a spec would write it.

    >>> value([16, 16]), value(0.03), value(True), value({"momentum": 0.9, "schedule": "cosine"})
    ('[16, 16]', '.03', 'true', '(momentum = .9, schedule = cosine)')
    """
    if isinstance(item, Mapping):
        return f"({settings(item)})"
    if item is None or isinstance(item, bool):
        return {None: "none", True: "true", False: "false"}[item]
    if isinstance(item, float):
        return setting(item)
    if isinstance(item, Sequence) and not isinstance(item, str | bytes):
        return "[" + ", ".join(value(part) for part in item) + "]"
    return str(item)


def settings(items: Mapping[str, object]) -> str:
    """`name = value` of every entry, in the mapping's order.

    >>> settings({"lr": 0.03, "batch": 32})
    'lr = .03, batch = 32'
    """
    return ", ".join(f"{name} = {value(item)}" for name, item in items.items())


def _scientific(number: float, decimals: int) -> str:
    mantissa, exponent = f"{number:.{decimals}e}".split("e")
    if decimals > 1:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return mantissa.replace("-", MINUS) + "e" + str(int(exponent))


def _sign(text: str) -> str:
    """Drop the zero before the point and write a true minus; `-0.000` becomes `.000`."""
    negative = text.startswith("-") and float(text) != 0
    digits = text.lstrip("-")
    if digits.startswith("0."):
        digits = digits[1:]
    return MINUS + digits if negative else digits

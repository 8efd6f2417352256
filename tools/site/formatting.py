"""Figures as pages print them: counts, accuracies, sizes, dates and shapes as short text.

    thousands(186554)           # "186,554"
    millions(28589128)          # "28.6 M"
    size(112345678)             # "112.3 MB"

What nobody reported or measured (None) is an en dash. Templates have these functions as filters (see `tools.site.rendering`).
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal

DASH = "\N{EN DASH}"  # an empty cell: nobody reported it, or nobody measured it


def thousands(value: int | None) -> str:
    """186554 -> "186,554"; None -> an en dash."""
    return DASH if value is None else f"{value:,}"


def millions(value: int | None) -> str:
    """A count in prose: 186554 -> "0.19 M", 28589128 -> "28.6 M", 350196968 -> "350 M"; None -> an en dash."""
    if value is None:
        return DASH
    if value < 10_000:
        return f"{value:,}"
    if value >= 10**9:
        return f"{value / 1e9:.2f} B"
    digits = 2 if value < 10**7 else 1 if value < 10**8 else 0
    return f"{value / 1e6:.{digits}f} M"


def decimal(value: float | None, *, significant: int | None = None) -> str:
    """A figure without exponent, of `significant` digits if given: 101.0 -> "101"; None -> an en dash."""
    if value is None:
        return DASH
    number = Decimal(repr(value))
    if significant is not None and number:
        number = number.quantize(Decimal(1).scaleb(min(number.adjusted() - significant + 1, 0)))
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(value: float | None) -> str:
    """A percentage as written, with one decimal at least: 84.0 -> "84.0", 75.672 -> "75.672"; None -> an en dash."""
    text = decimal(value)
    return text if value is None or "." in text else f"{text}.0"


def measured_percent(value: float | None) -> str:
    """A measured percentage with two decimals at most: 98.61111 -> "98.61"; None -> an en dash."""
    return DASH if value is None else percent(round(value, 2))


def versions(packages: Mapping[str, str]) -> str:
    """{"tensorflow": "2.21.0", "python": "3.11"} -> "tensorflow 2.21.0, python 3.11"."""
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def rate(value: float | None) -> str:
    """Images per second in three digits: 31.2345 -> "31.2", 1234.5 -> "1,235"; None -> an en dash."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if value >= 100 else decimal(value, significant=3)


def size(count: int | None) -> str:
    """Bytes in decimal units: 712345 -> "712 kB", 112345678 -> "112.3 MB"; None -> an en dash."""
    if count is None:
        return DASH
    if count < 1000:
        return f"{count} B"
    for unit, scale, digits in (("kB", 1e3, 0), ("MB", 1e6, 1)):
        if round(count / scale, digits) < 1000:
            return f"{count / scale:.{digits}f} {unit}"
    return f"{count / 1e9:.2f} GB"


def day(moment: str) -> str:
    """The date of an ISO 8601 time: "2026-11-20T10:30:00Z" -> "20 November 2026"."""
    date = datetime.fromisoformat(moment)
    months = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ]
    return f"{date.day} {months[date.month - 1]} {date.year}"


def one_line(text: str) -> str:
    """The text on one line, without blanks at its ends."""
    return " ".join(str(text).split())


def shape(dimensions: Iterable[int | None]) -> str:
    """A shape with names for what may vary: [None, None, None, 3] -> "[batch, height, width, 3]"."""
    dimensions = list(dimensions)
    names = ["batch", "height", "width", "channels"] if len(dimensions) == 4 else ["batch"]
    names += [f"d{i}" for i in range(len(names), len(dimensions))]
    return "[" + ", ".join(names[i] if d is None else str(d) for i, d in enumerate(dimensions)) + "]"


def span(limits: Iterable[float] | None) -> str:
    """A range of values: [0.0, 1.0] -> "0 to 1"; None -> an en dash."""
    if not limits:
        return DASH
    low, high = limits
    return f"{decimal(low)} to {decimal(high)}"


def trained(data: str) -> str:
    """A row's training data in brief, in the order of training: "21k_1k" -> "21k, then 1k"."""
    return data.replace("_", ", then ")

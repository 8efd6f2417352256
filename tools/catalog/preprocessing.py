"""Named transforms and normalisations: reads modules/preprocessing.toml, strictly.

    from tools.catalog import preprocessing
    preprocessing.load()["transforms"]["convnext_224"]["size"]      # 256

The file's own comments say what every key means. All problems of the file are reported together.
"""

import math
import pathlib
import re
import tomllib

DEFAULT_PATH = pathlib.Path(__file__).resolve().parents[2] / "modules" / "preprocessing.toml"

RESIZES = ("short_side", "warp")
INTERPOLATIONS = ("bicubic", "bilinear")
LIBRARIES = ("pil", "opencv", "tensorflow")
CROP_OFFSETS = ("round", "ceil")
LARGEST_SIZE = 4096

TRANSFORM_KEYS = ("resize", "size", "crop", "crop_offset", "interpolation", "antialias", "library", "text")
NORMALIZATION_KEYS = ("mean", "std", "text")
SHORT_SIDE_KEYS = ("crop", "crop_offset")  # required for "short_side", refused for "warp"

_CHOICES = {
    "resize": RESIZES,
    "interpolation": INTERPOLATIONS,
    "library": LIBRARIES,
    "crop_offset": CROP_OFFSETS,
}


class PreprocessingError(ValueError):
    """The file cannot be used; `problems` lists every reason as `FILE: [ROW]: what is wrong: the fix`."""

    def __init__(self, problems):
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def load(path=None):
    """Reads the transforms and normalisations.

    Args:
        path: a TOML file; modules/preprocessing.toml when None.

    Returns:
        `{"transforms": {name: row}, "normalizations": {name: row}}`; a transform's row is a dict with the keys
        `resize`, `size` (pixels), `interpolation`, `antialias`, `library`, `text`, and for `short_side` also `crop`
        (pixels) and `crop_offset`; a normalisation's row has `mean` and `std` (three floats each, for pixels in
        [0, 1]) and `text`.

    Raises:
        PreprocessingError: with every problem of the file.
    """
    path = DEFAULT_PATH if path is None else pathlib.Path(path)
    where = _short(path)
    try:
        tables = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise PreprocessingError([f"{where}: cannot be read ({error.strerror}): restore the file"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PreprocessingError([f"{where}: is not TOML in UTF-8 ({error}): correct the syntax"]) from error

    problems = [
        f"{where}: [{key}]: unknown table: write [transforms.NAME] or [normalizations.NAME]"
        for key in tables
        if key not in ("transforms", "normalizations")
    ]
    result = {}
    for kind, check in (("transforms", _transform_problems), ("normalizations", _normalization_problems)):
        rows = tables.get(kind)
        if not isinstance(rows, dict) or not rows:
            problems.append(f"{where}: [{kind}]: has no rows: add a table [{kind}.NAME]")
            continue
        for name, row in rows.items():
            row_name = f"{where}: [{kind}.{name}]"
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                problems.append(
                    f"{row_name}: bad name: start with a lower-case letter, then letters, digits and underscores"
                )
            if not isinstance(row, dict):
                problems.append(f"{row_name}: is {_kind(row)}: write a table [{kind}.{name}]")
                continue
            problems += [f"{row_name}: {problem}" for problem in check(row)]
        result[kind] = rows
    if problems:
        raise PreprocessingError(problems)
    for row in result["normalizations"].values():
        row["mean"], row["std"] = ([float(value) for value in row[key]] for key in ("mean", "std"))
    return result


def resolution(transform):
    """Height and width, in pixels, of the images that a transform's row makes."""
    return transform.get("crop", transform["size"])


def _transform_problems(row):
    """Yields what is wrong with one transform's row."""
    wanted = [key for key in TRANSFORM_KEYS if row.get("resize") != "warp" or key not in SHORT_SIDE_KEYS]
    yield from _key_problems(row, wanted, TRANSFORM_KEYS)
    if row.get("resize") == "warp":
        for key in SHORT_SIDE_KEYS:
            if key in row:
                yield f'{key} = {row[key]!r} with resize = "warp", which crops nothing: delete it or write "short_side"'
    for key, choices in _CHOICES.items():
        if key in row and row[key] not in choices:
            yield f"{key} = {row[key]!r}: write one of {', '.join(choices)}"
    sizes = {key: row[key] for key in ("size", "crop") if key in row}
    for key, value in sizes.items():
        if type(value) is not int or not 1 <= value <= LARGEST_SIZE:
            yield f"{key} = {value!r}: write a whole number of pixels from 1 to {LARGEST_SIZE}"
    if len(sizes) == 2 and all(type(value) is int for value in sizes.values()) and sizes["crop"] > sizes["size"]:
        yield f"crop = {sizes['crop']} is larger than size = {sizes['size']}: write a crop of at most {sizes['size']}"
    if "antialias" in row:
        if type(row["antialias"]) is not bool:
            yield f"antialias = {row['antialias']!r}: write true or false"
        elif row.get("library") == "pil" and not row["antialias"]:
            yield 'antialias = false with library = "pil": write true (PIL always antialiases)'
        elif row.get("library") == "opencv" and row["antialias"]:
            yield 'antialias = true with library = "opencv": write false (INTER_LINEAR and INTER_CUBIC never antialias)'
    yield from _text_problems(row, sizes.values())


def _normalization_problems(row):
    """Yields what is wrong with one normalisation's row."""
    yield from _key_problems(row, NORMALIZATION_KEYS, NORMALIZATION_KEYS)
    numbers = []
    for key in ("mean", "std"):
        if key not in row:
            continue
        values = row[key]
        if not isinstance(values, list) or len(values) != 3 or any(type(value) not in (int, float) for value in values):
            yield f"{key} = {values!r}: write three numbers, for red, green and blue"
        elif not all(math.isfinite(value) for value in values):
            yield f"{key} = {values!r}: write finite numbers"
        elif key == "mean" and not all(0 <= value <= 1 for value in values):
            yield f"mean = {values!r}: write numbers for pixels in [0, 1] (divide by 255)"
        elif key == "std" and not all(0 < value <= 1 for value in values):
            yield f"std = {values!r}: write positive numbers for pixels in [0, 1] (divide by 255)"
        else:
            numbers += values
    yield from _text_problems(row, numbers)


def _key_problems(row, wanted, known):
    for key in row:
        if key not in known:
            yield f"unknown key {key!r}: write one of {', '.join(known)}"
    for key in wanted:
        if key not in row:
            yield f"{key} is missing: add it"


def _text_problems(row, numbers):
    """The words repeat the figures for the reader of a page; they must not drift from them."""
    if "text" not in row:
        return
    if not isinstance(row["text"], str) or not row["text"].strip():
        yield f"text = {row['text']!r}: say in plain words what this row does"
        return
    told = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", row["text"])}
    for number in dict.fromkeys(numbers):
        if type(number) in (int, float) and float(number) not in told:
            yield f"text = {row['text']!r} does not name {number}: make words and figures agree"


def _kind(value):
    return {list: "a list", str: "a string", bool: "a boolean"}.get(type(value), f"a {type(value).__name__}")


def _short(path):
    """The path as a reader of the repository knows it."""
    try:
        return str(path.resolve().relative_to(DEFAULT_PATH.parents[1]))
    except ValueError:
        return str(path)

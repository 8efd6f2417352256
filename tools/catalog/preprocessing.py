"""Named transforms and normalisations: the rows of modules/preprocessing.toml, read strictly.

    from tools.catalog import preprocessing
    preprocessing.load()["transforms"]["convnext_224"]["size"]      # 256

The file's own comments say what every key means.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NotRequired, TypedDict

from tools.catalog.fields import REQUIRED, Problems, Table, read_toml
from tools.common.files import ROOT

FILE = "modules/preprocessing.toml"
RESIZES = ("short_side", "warp")
INTERPOLATIONS = ("bicubic", "bilinear")
LIBRARIES = ("pil", "opencv", "tensorflow")
CROP_OFFSETS = ("round", "ceil")
LARGEST_SIZE = 4096


class TransformRow(TypedDict):
    """A row of the file that says how an image of any size becomes square. `size` and `crop` are pixels; a warp has no crop."""

    resize: str
    size: int
    crop: NotRequired[int]
    crop_offset: NotRequired[str]
    interpolation: str
    antialias: bool
    library: str
    text: str


class NormalizationRow(TypedDict):
    """Mean and standard deviation of red, green and blue, for pixels in [0, 1]."""

    mean: list[float]
    std: list[float]
    text: str


class PreprocessingRows(TypedDict):
    """All rows of the file, by name."""

    transforms: dict[str, TransformRow]
    normalizations: dict[str, NormalizationRow]


def load(path: Path | None = None) -> PreprocessingRows:
    """Read the transforms and normalisations of a TOML file, modules/preprocessing.toml by default.

    Raises:
      CatalogError: with every problem of the file.
    """
    problems = Problems()
    found = read(ROOT / FILE if path is None else path, FILE if path is None else str(path), problems)
    problems.raise_if_any()
    assert found is not None
    return found


def read(path: Path, file: str, problems: Problems, known: PreprocessingRows | None = None) -> PreprocessingRows | None:
    """Read a file that problems call `file`; None if there are any.

    With the rows that are `known`, return these and the file's, which may hold one kind alone and must have names of their own.
    """
    count = len(problems.found)
    top = Table(read_toml(path, file, problems), file, "", problems)
    if len(problems.found) > count:
        return None
    for kind, check in (("transforms", _check_transform), ("normalizations", _check_normalization)):
        others = known[kind] if known else {}  # type: ignore[literal-required]
        rows = top.take(kind, dict, {} if known else REQUIRED)
        if rows == {} and not known:
            top.complain(f"`{kind}` has no rows", f"add a table [{kind}.NAME]")
        for name, row in (rows or {}).items():
            if not isinstance(row, dict):
                top.complain(f"`{kind}.{name} = {row!r}` is not a table", f"write a table [{kind}.{name}]")
                continue
            table = Table(row, file, f"{kind}.{name}", problems)
            if name in others:
                table.complain(f"{FILE} has a {name}, too", "give this one another name")
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                table.complain(
                    f"{name!r} is no name", "begin with a lower-case letter, then use letters, digits and underscores"
                )
            check(table)
            table.finish()
    top.finish()
    if len(problems.found) > count:
        return None
    normalizations: dict[str, NormalizationRow] = top.values.get("normalizations", {})
    for normalization in normalizations.values():
        normalization["mean"] = [*map(float, normalization["mean"])]
        normalization["std"] = [*map(float, normalization["std"])]
    transforms = top.values.get("transforms", {})
    if known:
        return {
            "transforms": known["transforms"] | transforms,
            "normalizations": known["normalizations"] | normalizations,
        }
    return {"transforms": transforms, "normalizations": normalizations}


def resolution(transform: TransformRow) -> int:
    """Return height and width, in pixels, of the images that a transform makes."""
    return transform.get("crop", transform["size"])


def _check_transform(table: Table) -> None:
    resize = table.take("resize", str, choices=RESIZES)
    is_warp = resize == "warp"
    sizes = {"size": table.take("size", int), "crop": table.take("crop", int, None if is_warp else REQUIRED)}
    table.take("crop_offset", str, None if is_warp else REQUIRED, choices=CROP_OFFSETS)
    table.take("interpolation", str, choices=INTERPOLATIONS)
    library = table.take("library", str, choices=LIBRARIES)
    antialias = table.take("antialias", bool)
    for key in ("crop", "crop_offset"):
        if is_warp and key in table.values:
            table.complain(
                f'`{key} = {table.values[key]!r}` with `resize = "warp"`, which crops nothing',
                'delete it, or write `resize = "short_side"`',
            )
    for key, value in sizes.items():
        if value is not None and not 1 <= value <= LARGEST_SIZE:
            table.complain(
                f"`{key} = {value}` is no size of an image", f"write a whole number of pixels from 1 to {LARGEST_SIZE}"
            )
    if sizes["crop"] and sizes["size"] and sizes["crop"] > sizes["size"]:
        table.complain(
            f"`crop = {sizes['crop']}` is larger than `size = {sizes['size']}`",
            f"write a crop of at most {sizes['size']}",
        )
    if library == "pil" and antialias is False:
        table.complain('`antialias = false` with `library = "pil"`', "write true (PIL always antialiases)")
    if library == "opencv" and antialias is True:
        table.complain(
            '`antialias = true` with `library = "opencv"`',
            "write false (INTER_LINEAR and INTER_CUBIC never antialias)",
        )
    _check_text(table, [value for value in sizes.values() if value is not None])


def _check_normalization(table: Table) -> None:
    numbers: list[float] = []
    for key in ("mean", "std"):
        values = table.take(key, list, of=float)
        if values is None:
            continue
        if len(values) != 3:
            table.complain(f"`{key} = {values!r}` has not three numbers", "write three, for red, green and blue")
        elif not all(map(math.isfinite, values)):
            table.complain(f"`{key} = {values!r}` is not finite", "write finite numbers")
        elif key == "mean" and not all(0 <= value <= 1 for value in values):
            table.complain(f"`mean = {values!r}` is not for pixels in [0, 1]", "divide by 255")
        elif key == "std" and not all(0 < value <= 1 for value in values):
            table.complain(
                f"`std = {values!r}` is not for pixels in [0, 1]", "write positive numbers, and divide by 255"
            )
        else:
            numbers += values
    _check_text(table, numbers)


def _check_text(table: Table, numbers: Iterable[float]) -> None:
    """Check that the words, which repeat the figures for the reader of a page, agree with them."""
    text = table.take("text", str)
    if text is None:
        return
    if not text.strip():
        table.complain("`text` is empty", "say in plain words how images are prepared")
        return
    told = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)}
    for number in dict.fromkeys(numbers):
        if float(number) not in told:
            table.complain(f"`text = {text!r}` does not name {number}", "make words and figures agree")

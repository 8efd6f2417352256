"""Registration of the families' layers with Keras: what was saved as `.keras` or `.h5` loads wherever `builders` is imported.

Importing `builders` imports neither Keras nor TensorFlow. Keras looks the layers of a saved model up in a dictionary, where each
gets a stand-in that imports the layer's file when it is needed. If Keras is imported after `builders`, that is done at the end of
its import; for this, Python has no other means than a finder.
"""

import importlib
import importlib.abc
import importlib.machinery
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "hubpress"  # under which layers are registered; saved models name it
LIBRARY = "library"  # the folder of what no module is made of; its layers are in one file


def register_layers() -> None:
    """Register all layers now if Keras is imported, or as soon as it is."""
    if sys.modules.get("keras"):
        _add_stand_ins()
    else:
        sys.meta_path.insert(0, _KerasFinder())


class _StandIn:
    """Stand-in for the class of a layer: it makes the layer from its configuration, which is all that Keras asks a class for."""

    def __init__(self, family: str, name: str):
        self.family, self.name = family, name

    def from_config(self, config: Mapping[str, Any]) -> Any:
        family = self.family
        if family == LIBRARY:
            from builders.library import layers

            return getattr(layers, self.name).from_config(config)
        return getattr(importlib.import_module(f"builders.{family}"), self.name).from_config(config)


def _add_stand_ins() -> None:
    """Put a stand-in for each layer into the dictionary of Keras; a layer's class takes its place when its file is imported.

    The layers are found in the sources like the families (see builders/__init__.py:families).
    """
    import keras

    known = keras.saving.get_custom_objects()
    folder = Path(__file__).parent
    files = {file: file.stem for file in sorted(folder.glob("*.py"))}
    files |= dict.fromkeys(folder.glob(f"{LIBRARY}/layers.py"), LIBRARY)  # which builds elsewhere do not have
    for file, family in files.items():
        for name in re.findall(r"^@register\nclass (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
            known.setdefault(f"{PACKAGE}>{name}", _StandIn(family, name))


class _KerasFinder(importlib.abc.MetaPathFinder):
    """Finder that finds Keras where the others do, and adds the stand-ins when it has been imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "keras":
            return None
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, found), None)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                _add_stand_ins()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

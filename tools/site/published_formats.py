"""A module's file for another runtime as its pages see it.

module.formats[0].name, module.formats[0].url          # "ONNX", "https://.../portable.onnx"
"""

from dataclasses import dataclass

from tools.catalog import layout
from tools.hub.formats import FormatFile
from tools.site.formatting import decimal, measured_percent, size, versions

NAMES = {"onnx": "ONNX", "float32": "LiteRT", "float16": "LiteRT, float16", "int8": "LiteRT, int8 weights"}


@dataclass(frozen=True)
class PublishedFormat:
    """One file: what its record says, each fact in the form in which it is printed. `base_url` is the hub's address."""

    file: FormatFile
    base_url: str

    @property
    def name(self) -> str:
        return NAMES[self.file["format"]]

    @property
    def is_lite(self) -> bool:
        return layout.kind_of_format(self.file["format"]) == layout.LITE

    @property
    def url(self) -> str:
        return f"{self.base_url}/{self.file['path']}"

    @property
    def file_name(self) -> str:
        return layout.FORMAT_FILES[self.file["format"]]

    @property
    def download(self) -> str:
        return size(self.file["bytes"])

    @property
    def top1_text(self) -> str:
        """The accuracy of this file on the row's labelled images."""
        accuracy = self.file["accuracy"]
        return measured_percent(accuracy["value"] if accuracy else None)

    @property
    def difference(self) -> str:
        """The largest difference from the module's answers, relative to the largest answer."""
        return f"{max(self.file['differences'].values()):.1e}"

    @property
    def tolerance(self) -> str:
        return decimal(self.file["tolerance"])

    @property
    def made_with(self) -> str:
        return versions(self.file["versions"])

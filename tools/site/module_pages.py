"""The Hub document and the HTML page of a published module.

document, html = texts(hub, module)
module_markdown(record, hub)            # the document alone, in tfhub.dev's format
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from markupsafe import Markup

from tools.catalog import layout
from tools.hub.records import Record
from tools.site import rendering, structured_data
from tools.site.gathering import Hub
from tools.site.hub_layout import naming, page
from tools.site.published_module import PublishedModule


class Example(NamedTuple):
    """A tab of the page: its text is `templates/hub/_usage_SNIPPET.md.j2`, its code `templates/snippets/SNIPPET.py.j2`."""

    snippet: str
    label: str
    heading: str

    @property
    def id(self) -> str:
        return self.snippet.replace("_", "-")


WAYS = [
    Example("hub_load", "hub.load", "With hub.load"),
    Example("keras_layer", "KerasLayer", "With hub.KerasLayer"),
    Example("fine_tune", "Fine-tune", "Fine-tuning"),
    Example("keras_3", "Keras 3", "With Keras 3"),
]
DEPLOYMENT = [
    Example("other_runtimes", "LiteRT, ONNX, OpenVINO", "LiteRT, ONNX Runtime, OpenVINO"),
    Example("several_sizes", "Several sizes", "Images of several sizes"),
    Example("mixed_precision", "Mixed precision, saving", "Mixed precision and saved models"),
    Example("keras_3_saving", "Saving with Keras 3", "Saved models of Keras 3"),
    Example("unrolled", "Layers of Keras 3", "Layers of Keras 3"),
]
FORMATS = [
    Example("onnx_runtime", "ONNX Runtime", "With ONNX Runtime"),
    Example("openvino", "OpenVINO", "With OpenVINO"),
    Example("litert", "LiteRT", "With LiteRT"),
    Example("onnx_web", "Browser", "In a browser, with ONNX Runtime Web"),
    Example("litert_kotlin", "Android", "On Android, with LiteRT and Kotlin"),
]
LANGUAGES = {"onnx_web": ("js", "JavaScript"), "litert_kotlin": ("kotlin", "Kotlin")}  # of snippets that are not Python
SHELL = ("install", "verify", "checksum", "signature")  # snippets that are commands


def texts(hub: Hub, module: PublishedModule) -> tuple[str, str]:
    """Return the document and the page of a module."""
    context = _context(module)
    return _document(module, context), _page(hub, module, context)


def module_markdown(record: Record, hub: Hub) -> str:
    """Return the Hub document of one record of `hub` (see `tools.site.gathering`), in tfhub.dev's format."""
    with naming(f"record {record.get('handle')}"):
        module = hub.modules[record["handle"]]
        return _document(module, _context(module))


def inputs(hub: Hub, module: PublishedModule) -> list[Any]:
    """Return everything that a module's pages depend on beside the publisher and the address: what is left out goes stale."""
    used = [("license", module.row["licence"]), ("task", module.task)]
    used += [("network_architecture", module.row["network_architecture"])]
    used += [("dataset", name) for name in module.row["datasets"]]
    used += [("dataset", note["measurement"].get("dataset")) for note in module.notes]
    named = [(kind, hub.tags[kind].get(name)) for kind, name in used]
    return [
        module.digest,
        module.yanked,
        module.notes,
        module.signer,
        [each.file for each in module.formats],
        [[kind, tag and [tag.id, tag.display_name, tag.url]] for kind, tag in named],
        module.sibling and [module.sibling.digest, module.sibling.yanked, module.sibling.notes],
        [[other.handle, other.published, other.changes, other.yanked] for other in module.versions],
        module.newest.handle,
        [[c.folder, c.definition.title, c.definition.description] for c in module.collections],
        [[relation, other.handle, facts] for relation, other, facts in module.neighbours],
    ]


def _context(module: PublishedModule) -> dict[str, Any]:
    """Return what the document and the page both contain: the description and the code."""
    names = [example.snippet for example in (*WAYS, *DEPLOYMENT)] + ["stages"]
    absent = ([] if module.row["fine_tunable"] else ["fine_tune"]) + ([] if module.maps else ["stages"])
    snippets = {
        name: rendering.text(f"snippets/{name}.py.j2", module=module).rstrip() for name in names if name not in absent
    }
    for name in SHELL if module.signer else SHELL[:-1]:
        snippets[name] = rendering.text(f"snippets/{name}.sh.j2", module=module).rstrip()
    for example in ways_of_formats(module):
        ending = {"js": "js", "kotlin": "kt"}.get(LANGUAGES.get(example.snippet, ("", ""))[0], "py")
        name = f"snippets/{example.snippet}.{ending}.j2"
        snippets[example.snippet] = rendering.text(name, module=module).rstrip()
    snippets["citation"] = rendering.text("snippets/citation.bib.j2", module=module).rstrip()
    return {
        "description": rendering.describe(module),
        "snippets": snippets,
        "format_ways": ways_of_formats(module),
        "languages": LANGUAGES,
    }


def ways_of_formats(module: PublishedModule) -> list[Example]:
    """Return the examples for the files that a module has."""
    absent = (() if module.onnx else ("onnx_runtime", "openvino", "onnx_web")) + (
        () if module.lite else ("litert", "litert_kotlin")
    )
    return [example for example in FORMATS if example.snippet not in absent]


def lite_markdown(module: PublishedModule) -> str:
    """Return the document of kind Lite of a module that has a LiteRT file."""
    return rendering.text("hub/lite.md.j2", module=module, **_context(module))


def _document(module: PublishedModule, context: Mapping[str, Any]) -> str:
    return rendering.text("hub/module.md.j2", module=module, **context)


def _page(hub: Hub, module: PublishedModule, context: Mapping[str, Any]) -> str:
    addresses = (*(each.url for each in module.formats), module.archive_url, module.url)
    volatile = (*addresses, module.archive["sha256"], module.file_name)

    def code(name: str) -> Markup:
        language = "bibtex" if name == "citation" else "shell" if name in SHELL else "python"
        language = LANGUAGES.get(name, (language,))[0]
        return rendering.highlight(context["snippets"][name], language, volatile=volatile)

    data = structured_data.of_module(hub, module)
    path = layout.page_path(module.handle)
    return page(hub, "module", path, data=data, module=module, code=code, ways=WAYS, deployment=DEPLOYMENT, **context)

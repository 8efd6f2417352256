"""The Hub document, the HTML page and the tables of a collection.

document, html, csv, json = texts(hub, collection)
"""

from typing import Any

from tools.catalog import layout
from tools.catalog.catalog import COLUMNS
from tools.site import plots, rendering, structured_data, table_columns, tables
from tools.site.formatting import trained
from tools.site.gathering import Hub
from tools.site.hub_layout import page
from tools.site.published_collection import ACCURACIES, PublishedCollection
from tools.site.published_module import SPEED, PublishedModule

# What a collection's page can be filtered by: key of the row's data attribute, label.
FILTERS = {
    "head": "Head",
    "data": "Trained on",
    "resolution": "Resolution",
    "precision": "Precision",
    "licence": "Licence",
}
HEADS = {"classifier": "classifier", "feature_extractor": "features"}


def texts(hub: Hub, collection: PublishedCollection) -> tuple[str, str, str, str]:
    """Return the document, the page, and the table as CSV and as JSON."""
    rows = tables.table_rows(collection)
    return collection_markdown(collection, hub), _page(hub, collection), tables.as_csv(rows), tables.as_json(rows)


def collection_markdown(collection: PublishedCollection, hub: Hub) -> str:
    """Return the Hub document of one of `hub.collections`."""
    return rendering.text(
        "hub/collection.md.j2",
        hub=hub,
        collection=collection,
        columns=_columns(collection),
        describe=rendering.describe,
    )


def _columns(collection: PublishedCollection) -> list[tuple[str, str]]:
    """Return the columns that its file names, and those that exist beyond: top-5 beside top-1, speed last."""
    columns = [(key, COLUMNS[key]) for key in collection.definition.columns]
    extra = [each for each in collection.extra_columns if each[0] not in collection.definition.columns]
    after = max((i + 1 for i, (key, _) in enumerate(columns) if key in ACCURACIES), default=0)
    top5 = [each for each in extra if each[0] in ACCURACIES]
    return columns[:after] + top5 + columns[after:] + [each for each in extra if each not in top5]


def _page(hub: Hub, collection: PublishedCollection) -> str:
    drawn = [plot for kind in ("parameters", "gflops") if (plot := plots.accuracy(collection.members, kind))]
    placed = {mark.module.name: f"{plot.kind}-{mark.module.name}" for plot in drawn[:1] for mark in plot.marks}
    extra = [key for key, _ in collection.extra_columns]
    named = list(collection.definition.columns)
    accuracies = [key for key in extra if key in ACCURACIES and key not in named]
    speeds = [key.removeprefix(SPEED) for key in extra if key.startswith(SPEED)]

    def columns_of(members: list[PublishedModule]) -> list[table_columns.Column]:
        keys = [*named, *accuracies]
        return table_columns.table_columns(members, keys, speeds=speeds, machine=collection.machine)

    return page(
        hub,
        "collection",
        layout.page_path(collection.folder),
        data=structured_data.of_collection(hub, collection),
        collection=collection,
        plots=drawn,
        placed=placed,
        filters=_filters(collection),
        columns_of=columns_of,
    )


def _filters(collection: PublishedCollection) -> list[tuple[str, str, list[tuple[Any, str]]]]:
    """Return (key, label, choices) of each filter that has more than one choice; choices are (value, text)."""
    filters = []
    for key, label in FILTERS.items():
        choices: dict[Any, str] = {}
        for module in collection.members:
            value = getattr(module, key) if key in ("head", "precision") else module.row[key]
            names = {"head": HEADS.get(value), "licence": module.licence.display_name, "data": trained(str(value))}
            choices[value] = names.get(key) or str(value)
        if len(choices) > 1:
            filters.append((key, label, sorted(choices.items())))
    return filters

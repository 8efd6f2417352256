"""Data for search engines: schema.org's vocabulary as JSON, in a block that runs nothing."""

from typing import Any

from markupsafe import Markup

from tools.site import rendering
from tools.site.formatting import one_line
from tools.site.gathering import Hub
from tools.site.published_collection import PublishedCollection
from tools.site.published_module import PublishedModule


def of_home(hub: Hub) -> Markup:
    """Return the data of a hub's first page."""
    return _block(
        {
            "@type": "WebSite",
            "name": hub.publisher.title,
            "url": f"{hub.base_url}/",
            "description": one_line(hub.publisher.description),
            "publisher": _publisher(hub),
            "potentialAction": {
                "@type": "SearchAction",
                "target": f"{hub.base_url}/search/?q={{query}}",
                "query-input": "required name=query",
            },
        }
    )


def of_collection(hub: Hub, collection: PublishedCollection) -> Markup:
    """Return the data of a collection's page."""
    return _block(
        {
            "@type": "CollectionPage",
            "name": collection.definition.title,
            "url": collection.url,
            "description": one_line(collection.definition.description),
            "hasPart": [m.url for m in collection.members],
            "publisher": _publisher(hub),
        }
    )


def of_module(hub: Hub, module: PublishedModule) -> Markup:
    """Return the data of a module's page."""
    paper = module.row["paper"]
    return _block(
        {
            "@type": "SoftwareApplication",
            "applicationCategory": "Machine learning model",
            "operatingSystem": "any",
            "name": module.name,
            "softwareVersion": str(module.version),
            "url": module.url,
            "description": one_line(rendering.describe(module)).replace("`", ""),
            "license": module.licence.url or module.licence.display_name,
            "datePublished": module.published,
            "downloadUrl": module.archive_url,
            "fileSize": str(module.archive["bytes"]),
            "isPartOf": [c.url for c in module.collections],
            "citation": {
                "@type": "ScholarlyArticle",
                "name": paper["title"],
                "author": paper["authors"].split(", "),
                "datePublished": str(paper["year"]),
                "url": paper["url"],
            },
            "publisher": _publisher(hub),
        }
    )


def _publisher(hub: Hub) -> dict[str, str]:
    return {"@type": "Organization", "name": hub.publisher.title, "url": f"{hub.base_url}/{hub.publisher.name}"}


def _block(data: dict[str, Any]) -> Markup:
    return rendering.json_block({"@context": "https://schema.org", **data})

"""The feed of new modules and the sitemap of a hub."""

import urllib.parse

from tools.site import rendering
from tools.site.gathering import Hub

FEED_ENTRIES = 50  # modules at most


def feed(hub: Hub) -> str:
    """Return the newest modules as Atom; its time is that of the newest module, so that the same records give the same bytes."""
    latest = sorted(hub.modules.values(), key=lambda m: (m.published, m.handle), reverse=True)[:FEED_ENTRIES]
    updated = latest[0].published if latest else "1970-01-01T00:00:00Z"
    return rendering.page("site/feed.xml.j2", hub=hub, modules=latest, updated=updated, describe=rendering.describe)


def sitemap(hub: Hub) -> str:
    """Return the addresses of all pages, those of modules with the day on which they were published."""
    addresses = [
        (f"{hub.base_url}/", None),
        (f"{hub.base_url}/{hub.publisher.name}/", None),
        (f"{hub.base_url}/find/", None),
    ]
    addresses += [(f"{hub.base_url}/benchmarks/", None)] if hub.has_benchmarks else []
    addresses += [(f"{hub.base_url}/{urllib.parse.quote(c.folder)}/", None) for c in hub.collections]
    addresses += [(f"{hub.base_url}/{m.folder}/", m.published[:10]) for m in hub.modules.values()]
    return rendering.page("site/sitemap.xml.j2", addresses=addresses)

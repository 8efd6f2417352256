"""A module in one sentence, as its document, the tables, the search and the feed say it."""

from tools.site import rendering
from tools.site.published_module import PublishedModule


def describe(module: PublishedModule) -> str:
    """Return the description of a module's document; rendered once for each module."""
    if not module.description:
        module.description = rendering.sentence("hub/_description.md.j2", module=module)
    return module.description

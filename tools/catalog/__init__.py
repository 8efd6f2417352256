"""What is published: the rows of `modules/`, read strictly, and the collections that select among them.

catalog = load()
catalog.find("convnext_tiny_1k_224_fe").handle       # "hubpress/convnext_tiny_1k_224_fe/1"
"""

from tools.catalog.catalog import ROOT, Catalog, Collection, Module, Publisher, Unknown, Variant, load
from tools.catalog.fields import CatalogError, Problem

__all__ = [
    "ROOT",
    "Catalog",
    "CatalogError",
    "Collection",
    "Module",
    "Problem",
    "Publisher",
    "Unknown",
    "Variant",
    "load",
]

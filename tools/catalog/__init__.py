"""Catalogue of what is published: the rows of `modules/`, read strictly, and the collections that select among them.

catalog = load()
catalog.find("convnext_tiny_1k_224_fe").handle       # "hubpress/convnext_tiny_1k_224_fe/1"
"""

from tools.catalog.catalog import Catalog, Collection, Module, Publisher, UnknownNameError, Variant
from tools.catalog.fields import CatalogError
from tools.catalog.reading import load, load_usable

__all__ = [
    "Catalog",
    "CatalogError",
    "Collection",
    "Module",
    "Publisher",
    "UnknownNameError",
    "Variant",
    "load",
    "load_usable",
]

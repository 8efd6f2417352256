"""Models by name, and modules of a hub as Keras models: what users of the networks ask for, and no build of a module.

    import builders

    builders.list("convnext_tiny*")
    model = builders.create("convnext_tiny_1k_224", weights="row")
    model = builders.from_hub("./unpacked/module")

`builders` offers these functions and imports this package when one of them is called: a key of a build does not cover it.
"""

from builders.library.hub import HubError, from_hub
from builders.library.models import Loaded, create, names, preprocessing_of

list = names  # as `builders.list`

__all__ = ["HubError", "Loaded", "create", "from_hub", "list", "names", "preprocessing_of"]

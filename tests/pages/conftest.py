import pytest
import synthetic

from tools.pages import site


def build(records, **changes):
    """The pages of some records, with everything else as in `synthetic`."""
    arguments = {
        "publisher": synthetic.PUBLISHER,
        "collections": synthetic.COLLECTIONS,
        "base_url": synthetic.BASE_URL,
        "tags": synthetic.TAGS,
    }
    return site.build(records, **{**arguments, **changes})


@pytest.fixture(scope="session")
def pages():
    """The pages of one record of every kind; a version of one of them is withdrawn."""
    return build(synthetic.records(), yanked=synthetic.YANKED)

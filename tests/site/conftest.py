import pytest

from tests.support import synthetic


@pytest.fixture(scope="session")
def pages():
    """The pages of one record of every kind; a version of one of them is withdrawn."""
    return synthetic.build(synthetic.records(), yanked=synthetic.YANKED)

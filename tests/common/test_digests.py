"""A digest is 64 hexadecimal digits, whatever a file says."""

import pytest

from tools.common.digests import parse_sha256


def test_a_digest_is_64_hexadecimal_digits():
    assert parse_sha256("0aF9" * 16) == "0af9" * 16


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            ".",
            "..",
            "../" * 21 + "a",
            "/etc",
            "a" * 63,
            "a" * 65,
            "g" * 64,
            "a" * 64 + "\n",
            " " + "a" * 63,
            "٣" * 64,
        ),
        *(None, 1, 10**63, 1.5, True, ["a" * 64], {"a": "b"}, b"a" * 64),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_everything_else_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^archive\.sha256 is .*, not 64 hexadecimal digits$") as caught:
        parse_sha256(value, "archive.sha256")
    assert str(caught.value).isascii() and len(str(caught.value)) < 200

"""The time, as records state it."""

import datetime
import os


def now() -> str:
    """Return the time in UTC as ISO 8601, to the second; SOURCE_DATE_EPOCH sets it for runs that must repeat."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def is_moment(text: str) -> bool:
    """Return whether a text is a date, or a date and a time, in ISO 8601."""
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True

"""The time of records is UTC to the second, and stands still where SOURCE_DATE_EPOCH says so."""

import datetime

from tools.common import clock


def test_now_is_utc_to_the_second(monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    moment = datetime.datetime.fromisoformat(clock.now())
    assert before <= moment <= datetime.datetime.now(datetime.UTC) and clock.now().endswith("Z")


def test_source_date_epoch_sets_the_time(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert clock.now() == "2023-11-14T22:13:20Z"

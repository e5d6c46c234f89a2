"""Ranges that keep a fetch from hanging, hammering or being blocked as nobody."""

import pytest
from pydantic import ValidationError

from phi3v_dist.config.fetch_options import FetchOptions


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("deadline_seconds", 0),
        ("deadline_seconds", float("inf")),
        ("attempts", 0),
        ("connections", 0),
        ("connections_per_host", True),
        ("requests_per_second", -1),
        ("max_wait_seconds", float("nan")),
        ("max_picture_megabytes", 0),
        ("give_up_share", 0),
        ("give_up_window", 1),
        ("max_failed_share", 1.1),
        ("contact", "two words\r\nX-Header: planted"),
        ("nameservers", [""]),
    ],
)
def test_what_would_hang_or_hammer_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        FetchOptions.model_validate({name: value})

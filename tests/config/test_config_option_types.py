"""Values that YAML makes of yes, one name and nothing."""

import pytest
from pydantic import ValidationError

from phi3v_dist.config.option_types import Count, NamedColumns, Names, Options, Share


class Room(Options):
    count: Count = 1
    share: Share = 0.5
    names: Names = ()


@pytest.mark.parametrize("options", [{"count": True}, {"share": False}, {"count": 0}, {"share": 1.1}, {"coumt": 2}])
def test_a_wrong_value_or_name_is_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        Room.model_validate(options)


@pytest.mark.parametrize(("given", "names"), [(None, ()), ("a", ("a",)), (["a", "b"], ("a", "b"))])
def test_one_name_stands_for_a_list_of_one(given: object, names: tuple) -> None:
    assert Room.model_validate({"names": given}).names == names


def test_equal_columns_have_equal_hashes() -> None:
    assert hash(NamedColumns(a="b")) == hash(NamedColumns(a="b"))

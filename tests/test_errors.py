"""A user error is one line, whatever went into it, and is the same after a process border."""

import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v_dist import errors
from phi3v_dist.errors import UserError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UserError)]


def test_the_line_tells_where_what_value_and_mend_in_this_order() -> None:
    error = UserError("not a number", where="a.csv row 3", value="12,5", mend="Write 12.5.")
    assert str(error) == "a.csv row 3: not a number (found '12,5'). Write 12.5."


def test_without_a_value_nothing_is_said_to_be_found() -> None:
    assert str(UserError("is missing", where="a.csv", mend="Make it.")) == "a.csv: is missing. Make it."


@pytest.mark.parametrize("value", [0, False, "", []])
def test_a_value_that_is_false_is_still_shown(value: object) -> None:
    assert f"(found {value!r})" in str(UserError("is wrong", where="key", value=value, mend="Mend it."))


@given(st.text(), st.text(), st.text(), st.text())
def test_it_is_one_line_whatever_the_texts(what: str, where: str, mend: str, value: str) -> None:
    assert len(str(UserError(what, where=where, mend=mend, value=value)).splitlines()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_the_same_after_a_process_border(kind: type[UserError]) -> None:
    error = kind("is cut off", where="x.tar", value=(1, "two"), mend="Copy it again.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert (again.what, again.where, again.value, again.mend) == (error.what, error.where, error.value, error.mend)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_ends_a_command_with_code_2_but_for_those_that_another_start_mends(kind: type[UserError]) -> None:
    again = {"LostRankError": os.EX_SOFTWARE, "LostDiskError": os.EX_SOFTWARE, "StoppedError": os.EX_TEMPFAIL}
    assert kind.exit_code == again.get(kind.__name__, 2)
    assert kind.__doc__


def test_the_docstring_draws_the_whole_tree() -> None:
    assert all(kind.__name__ in str(errors.__doc__) for kind in KINDS)


def test_a_very_long_part_is_shown_by_its_ends_and_control_characters_never_reach_a_terminal() -> None:
    error = UserError("has no such column", where="shop.csv", mend=f"There is: a\x1b[2J, {'x' * 10_000_000}, z")
    assert len(str(error)) < 1100
    assert str(error).startswith("shop.csv: has no such column. There is: a?[2J, xxx") and str(error).endswith("x, z")

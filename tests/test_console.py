"""How a command ends, and that a product's text is shown as it is."""

import subprocess
import sys
from pathlib import Path

import pytest

from phi3v_dist.console import CommandParser, progress, run_command, say, table
from phi3v_dist.errors import ConfigError

FAULT = ConfigError("no such option", where="a.yaml line 3", value="trainig", mend="Did you mean training?")


def failing() -> None:
    raise FAULT


def test_a_user_error_is_exactly_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(failing) == 2
    told = capsys.readouterr()
    assert told.err == f"ERROR {FAULT}\n"
    assert told.out == ""


def test_a_rank_that_leaves_the_word_to_another_keeps_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    asked = []
    assert run_command(failing, speaks=lambda error: bool(asked.append(error))) == 2
    assert asked == [FAULT]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_commands_own_code_is_kept(returned: int | None, code: int) -> None:
    assert run_command(lambda: returned) == code


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


def test_the_keyboard_ends_a_command_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    assert run_command(stopped) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_a_process_ends_with_the_code_and_without_a_traceback() -> None:
    program = (
        "import sys; from phi3v_dist.console import run_command; from phi3v_dist.errors import RunError\n"
        "def main(): raise RunError('it broke', where='step 3', mend='Start again.')\n"
        "sys.exit(run_command(main))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr, ended.stdout) == (2, "ERROR step 3: it broke. Start again.\n", "")


@pytest.mark.parametrize("text", ["[red]Bag[/red]", "[/]", ":smile: 12:00", "long " * 60 + "end", "ü ▁ 1e-5 'a' 3.0"])
def test_a_line_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    assert capsys.readouterr().out == text + "\n"


def test_a_table_shows_every_cell_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    table("[b]", ["[name]", "count"], [("[red] bag", 1), ("[/red]", 22), (":smile:", 333), (long, 0)])
    told = capsys.readouterr().out
    for text in ("[b]", "[name]", "[red] bag", "[/red]", ":smile:", "333"):
        assert text in told
    assert told.count("x") == 300


def test_progress_yields_everything_and_says_when_it_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress("abc", "letters", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().out.startswith("letters: 3 of 3 (")


def test_file_that_can_not_be_opened_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: Path("/no/such/folder/file").read_bytes()) == 2
    told = capsys.readouterr().err
    assert told.startswith("ERROR /no/such/folder/file: No such file or directory.")
    assert told.count("\n") == 1


def test_system_error_without_a_file_keeps_its_traceback() -> None:
    def fail() -> None:
        raise OSError(9, "Bad file descriptor")

    with pytest.raises(OSError, match="Bad file descriptor"):
        run_command(fail)


def test_a_full_disk_is_one_line_also_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    assert run_command(fail) == 2
    told = capsys.readouterr().err
    assert told.startswith("ERROR what this command writes: No space left on device.") and told.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--confg", "x"], "unrecognized arguments: --confg"),
        (["--number", "x"], "argument --number: invalid int value: 'x'"),
        ([], "the following arguments are required: word"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(words, told, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        parser = CommandParser(prog="tool.py")
        parser.add_argument("word")
        parser.add_argument("--number", type=int)
        parser.parse_intermixed_args(words)

    assert run_command(main) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"ERROR command line: {told}") and line.count("\n") == 1

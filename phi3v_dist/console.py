"""What a person sees: log lines, progress, tables, and how a command ends.

Enters: a command's function. Leaves: its exit code, and for a ``UserError`` exactly one line on standard error.
rich draws on a terminal; without one every line is plain, fit for a log file. Texts come from products, so nothing in
them is read as markup or an emoji code.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table

from phi3v_dist.errors import NO_ROOM, ConfigError, UserError

Item = TypeVar("Item")

_PLAIN_PROGRESS_SECONDS = 5.0

out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
log = logging.getLogger("phi3v_dist")


class CommandParser(argparse.ArgumentParser):
    """A command's words: its help ends with an example, and what is wrong with them is one line as anything else."""

    def __init__(self, **told: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter} | told)

    def error(self, message: str) -> NoReturn:
        """Raise ``ConfigError``."""
        raise ConfigError(message, where="command line", mend=f"See {self.prog} --help.")


def count(text: str) -> int:
    """The type of a command's number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number above 0 is needed (found {text!r})")
    return int(text)


def _always(_: UserError) -> bool:
    return True


def run_command(command: Callable[[], int | None], *, speaks: Callable[[UserError], bool] = _always) -> int:
    """Call ``command``; return its exit code, or a ``UserError``'s after printing its one line.

    An ``OSError`` about a file (no permission, a full disk) is the user's to mend too. Where ``speaks`` says no,
    the line is kept back: a rank that meets the same error as rank 0 leaves the word to it.
    """
    try:
        return command() or 0
    except UserError as error:
        if speaks(error):
            print(f"{error.label} {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except OSError as error:
        if error.filename is None and error.errno not in NO_ROOM:
            raise  # not about a file of the user's: a bug keeps its traceback
        where, what = error.filename or "what this command writes", error.strerror
        print(f"ERROR {where}: {what}. Mend the path, its permissions or the disk.", file=sys.stderr)
        return UserError.exit_code
    except KeyboardInterrupt:
        print("stopped by the keyboard", file=sys.stderr)
        return 130


def say(text: str) -> None:
    """Print one line for the user."""
    out.print(text)


def tell_faults(lines: Sequence[str]) -> int:
    """Print a line per fault on standard error; the exit code: 2, or 0 where there is none."""
    for line in lines:
        print(f"ERROR {line}", file=sys.stderr)
    return UserError.exit_code if lines else 0


def progress(items: Iterable[Item], what: str, total: int) -> Generator[Item, None, None]:
    """Yield ``items`` while showing how far: a bar on a terminal, else a plain line every few seconds."""
    if out.is_terminal:
        yield from track(items, description=what, total=total, console=out)
        return
    started = last = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _PLAIN_PROGRESS_SECONDS or number == total:
            last = now
            say(f"{what}: {number} of {total} ({now - started:.0f} s)")


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table."""
    drawn = Table(title=title, title_justify="left")
    for name in header:
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*(str(cell) for cell in row))
    out.print(drawn)

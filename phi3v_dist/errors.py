"""Errors that a user can mend: what is wrong, where, the value found, the mend, and an exit code.

Enters: nothing. Leaves: one tree of exceptions under ``UserError``; ``str(error)`` is the single line that a
command prints. A bug of ours is never a ``UserError``: it keeps its traceback.

::

    UserError            exit code 2
    ├─ ConfigError       a recipe, an override, an option
    ├─ CatalogError      a product table, its columns, its pictures
    ├─ ShardError        shards, index, manifest
    ├─ DocumentError     tokenizer, template, a document that does not fit
    ├─ ModelFolderError  a folder with config.json and weights
    ├─ CheckpointError   a checkpoint, or a resume that would change the run
    ├─ HardwareError     this machine can't do what the recipe asks
    └─ RunError          a run that can't go on (a loss is not finite, a full disk)
       ├─ LostRankError  a rank died, froze or was cut off: another attempt may help; exit code 70
       ├─ LostDiskError  a disk or the network below it failed: another attempt may help; exit code 70
       └─ StoppedError   asked to stop, the last finished step is saved: go on later; exit code 75

The codes 70 and 75 are EX_SOFTWARE and EX_TEMPFAIL of sysexits.h: the batch script starts the run again after both.
"""

import errno

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an ``OSError``: the disk is full, often without a file's name
# What a disk behind a network raises while its server or a switch is away; on a disk that is broken another node helps.
PASSING = (errno.ESTALE, errno.EIO, errno.EREMOTEIO, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH,
           errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN)  # fmt: skip
_LONGEST_PART = 1000  # characters; a cell of a broken table may be the whole table


class UserError(Exception):
    """One line for the person at the keyboard.

    ``what``: the fault, in words. ``where``: file, row or key. ``value``: what was found there (left out when there
    is none). ``mend``: what to do next.
    """

    exit_code = 2
    label = "ERROR"  # first word of the line

    def __init__(self, what: str, *, where: str, mend: str, value: object = None) -> None:
        found = "" if value is None else f" (found {_short(repr(value))})"
        super().__init__(f"{_short(where)}: {_short(what)}{found}. {_short(mend)}")
        self.what, self.where, self.value, self.mend = what, where, value, mend

    # True where every rank meets the same error, so that rank 0 alone speaks of it.
    on_every_rank = True
    # True where another rank has told the reason already, and this one would only repeat that it is gone.
    said_elsewhere = False

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.mend, self.value)


def _short(text: str) -> str:
    """The text on one line that a terminal shows as it is; of a very long one its beginning and end."""
    if len(text) > _LONGEST_PART:
        text = f"{text[: _LONGEST_PART // 2]} … {text[-_LONGEST_PART // 2 :]}"
    line = " ".join(text.splitlines())
    return line if line.isprintable() else "".join(sign if sign.isprintable() else "?" for sign in line)


def _rebuild(kind: type[UserError], what: str, where: str, mend: str, value: object) -> UserError:
    """Make an error anew after a process border (keyword-only arguments don't cross one by themselves)."""
    return kind(what, where=where, mend=mend, value=value)


class ConfigError(UserError):
    """A recipe, an override or an option is wrong."""


class CatalogError(UserError):
    """A product table or its pictures can't be used."""


class ShardError(UserError):
    """Shards, their index or their manifest are missing or damaged."""


class DocumentError(UserError):
    """A sample can't become a document."""


class ModelFolderError(UserError):
    """A model folder is missing, incomplete, or of another kind."""


class CheckpointError(UserError):
    """A checkpoint can't be used, or a resume would change what the run means."""


class HardwareError(UserError):
    """This machine can't do what the recipe asks for."""


class RunError(UserError):
    """A run can't go on."""


class LostRankError(RunError):
    """A rank died, froze or was cut off; what the ranks did since the last checkpoint is done again."""

    exit_code = 70
    on_every_rank = False  # the rank that knows the reason may be another one


class LostDiskError(RunError):
    """A disk or the network below it failed, as it may not the next time; goes on from the last checkpoint."""

    exit_code = LostRankError.exit_code


class StoppedError(RunError):
    """The run was asked to stop, saved its last finished step, and goes on when it is started again."""

    exit_code = 75
    label = "STOPPED"

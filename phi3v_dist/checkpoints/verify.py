"""Whether a checkpoint still holds what was written, byte for byte.

Enters: checkpoints that look complete. Leaves: the first one that is whole, and what is wrong with those before it. The
sizes of files tell a copy that was cut off, only their hashes tell a flipped bit, which DeepSpeed would train on.
Reading tens of gigabytes takes a while, so that ranks can share it.
"""

from collections.abc import Callable, Iterable

from phi3v_dist.checkpoints.choose import Checkpoint, Damage
from phi3v_dist.errors import CheckpointError
from phi3v_dist.files import sha256_of


def verify(checkpoint: Checkpoint, share: int = 0, shares: int = 1) -> None:
    """Read every ``shares``-th file from number ``share`` on. Raises ``CheckpointError`` for the first that differs."""
    for name in sorted(checkpoint.files)[share::shares]:
        try:
            same = sha256_of(checkpoint.folder / name) == checkpoint.files[name].sha256
        except OSError as error:
            raise _damaged(checkpoint, f"{name} can't be read: {error.strerror}") from None
        if not same:
            raise _damaged(checkpoint, f"{name} has another content than was written (SHA-256)")


def _damaged(checkpoint: Checkpoint, what: str) -> CheckpointError:
    return CheckpointError(what, where=str(checkpoint.folder), mend="Take another checkpoint.")


def first_whole(
    choice: Iterable[Checkpoint | Damage], verified: Callable[[Checkpoint], None]
) -> tuple[Checkpoint | None, list[Damage]]:
    """Return the first of ``choice`` that ``verified`` lets pass, and what had to be passed over."""
    passed: list[Damage] = []
    for found in choice:
        if isinstance(found, Checkpoint):
            try:
                verified(found)
            except CheckpointError as error:
                passed.append(Damage(found.folder, error.what))
                continue
            return found, passed
        passed.append(found)
    return None, passed

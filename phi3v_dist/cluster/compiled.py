"""What DeepSpeed compiles on a CPU: once per environment, whoever starts, and whoever was killed while it compiled.

Enters: nothing. Leaves: the module loaded in this process, so that DeepSpeed finds it. torch guards its builds by a
file that outlives a killed process, and every later start then waits for ever; so ranks take turns by a lock that the
kernel gives back, and whoever holds it clears the file away. The build lies in the Python environment: checkouts that
share a home would otherwise undo each other's, since their paths differ.
"""

import os
import sys
from pathlib import Path

from phi3v_dist.errors import HardwareError
from phi3v_dist.files import locked

_TORCHS_LOCK = "lock"


def load_compiled_parts() -> Path:
    """Load DeepSpeed's CPU communication, compiled by the first process that asks (half a minute); its folder.

    Raises ``HardwareError`` where it can't be compiled.
    """
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))  # ninja
    if os.access(sys.prefix, os.W_OK):
        os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
    from torch.utils.cpp_extension import _get_build_directory

    builder = ShareMemCommBuilder()
    folder = Path(_get_build_directory(builder.name, verbose=False))
    with locked(folder / ".loading"):
        (folder / _TORCHS_LOCK).unlink(missing_ok=True)
        try:
            builder.load(verbose=False)
        except (RuntimeError, OSError) as error:
            raise HardwareError(
                f"DeepSpeed's CPU communication can't be compiled ({str(error).splitlines()[0]})",
                where=str(folder),
                mend="Install g++ and Python's headers, then: python -m phi3v_dist.cluster.compiled",
            ) from error
    return folder


def forget_shared_buffers() -> None:
    """Take the names from DeepSpeed's shared memory, 69 MB a rank, once all ranks of this machine hold it.

    It goes with the last process then; else it stays until the machine starts anew, as DeepSpeed takes the names away
    in no end of ours (a kill, a fault, a quick exit).
    """
    mine = f"deepspeed_allreduce_buffer_{os.getuid()}_{os.environ['MASTER_ADDR']}_{os.environ['MASTER_PORT']}_*"
    for buffer in Path("/dev/shm").glob(mine):
        buffer.unlink(missing_ok=True)


if __name__ == "__main__":
    load_compiled_parts()

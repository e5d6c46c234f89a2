"""Reads a W&B run file by its published form: LevelDB's log of protobuf records, independent of what wrote it.

A file is a header of 7 bytes, then blocks of 32 KiB; a chunk in a block is CRC-32 (4 bytes), length (2), type (1:
whole, 2: first, 3: middle, 4: last part) and data.
"""

import json
import struct
from pathlib import Path

from wandb.proto import wandb_internal_pb2

_BLOCK = 32 * 1024


def read_records(path: Path) -> list:
    """Protobuf records of a ``.wandb`` file in order; a torn end is left out."""
    content, place, parts, records = path.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            records.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return records


def history(records: list) -> dict[int, dict]:
    """Step → logged values; nested values joined by dots."""
    return {
        record.history.step.num: {
            item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
        }
        for record in records
        if record.WhichOneof("record_type") == "history"
    }

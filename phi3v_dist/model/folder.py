"""Model folders in the official layout: in tensor by tensor, out whole or not at all.

::

    config.json                        as it came (rope_scaling untouched)
    model.safetensors                  or model-0000i-of-0000n.safetensors + model.safetensors.index.json
    tokenizer.json, tokenizer_config.json, special_tokens_map.json, preprocessor_config.json, …   byte for byte
    generation_config.json             end tokens that the model really uses

Enters: a folder, or tensors and the folder they were trained from. Leaves: tensors one at a time, or a new folder.
Nothing is re-saved through transformers, which would change tokenizer and config (facts: phi3v.md, section 10). The one
allowed change to a side file: names in ``auto_map`` of the form ``repo--file.Class``, which transformers writes and
which can't be followed offline, become ``file.Class``; not a byte beside them changes.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from phi3v_dist.errors import ModelFolderError
from phi3v_dist.files import fsync_file, fsync_folder, write_json
from phi3v_dist.model.configuration import Phi3VConfig, local_auto_map

SHARD_BYTES = 5_000_000_000
_LONG_ROPE = ("su", "longrope")  # two names of one formula
_WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_OF_WEIGHTS = (".safetensors", ".bin", ".index.json")
_END_TOKENS = ("<|endoftext|>", "<|end|>")
ALIAS = "model.vision_embed_tokens.wte.weight"  # same tensor as embed_tokens, in some third-party files


def read_config(folder: str | Path) -> Phi3VConfig:
    """Read ``config.json``. Raises ``ModelFolderError`` when it is missing, broken or of another model."""
    path = Path(folder) / "config.json"
    mend = "Give model.folder a folder laid out as microsoft/Phi-3-vision-128k-instruct (README: official weights)."
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFolderError("the model folder has no config.json", where=str(folder), mend=mend) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelFolderError(f"not readable as JSON: {error}", where=str(path), mend=mend) from None
    if not isinstance(raw, dict) or raw.get("model_type") != Phi3VConfig.model_type:
        found = raw.get("model_type") if isinstance(raw, dict) else type(raw).__name__
        raise ModelFolderError("model_type is not phi3_v", where=str(path), value=found, mend=mend)
    config = Phi3VConfig(**raw)
    _check_rope(config, path)
    return config


def _check_rope(config: Phi3VConfig, path: Path) -> None:
    """Refuse what would silently become plain RoPE or another one: transformers 5 re-saves the key under a new name."""
    mend = "Copy the model's original config.json over it."
    rope, pairs = config.long_rope, config.head_dim // 2
    if rope is None:
        if "rope_parameters" in config.raw:
            raise ModelFolderError("rope_parameters stands in place of rope_scaling", where=str(path), mend=mend)
        return
    if not isinstance(rope, dict) or rope.get("type") not in _LONG_ROPE:
        found = rope.get("type") if isinstance(rope, dict) else rope
        raise ModelFolderError(f"type of rope_scaling is none of {_LONG_ROPE}", where=str(path), value=found, mend=mend)
    for name in ("short_factor", "long_factor"):
        count = len(rope[name]) if isinstance(rope.get(name), list) else rope.get(name)
        if count != pairs:
            what = f"rope_scaling.{name} is no list of {pairs} numbers, half of a head's width"
            raise ModelFolderError(what, where=str(path), value=count, mend=mend)


def weight_files(folder: str | Path) -> list[Path]:
    """Return the weight files of a folder, in order. Raises ``ModelFolderError`` when one is missing."""
    folder = Path(folder)
    names = sorted(set(weight_map(folder / INDEX).values())) if (folder / INDEX).is_file() else [_WEIGHTS]
    for name in names:
        if not (folder / name).is_file():
            raise ModelFolderError(
                "a weight file is missing", where=str(folder / name), mend="Copy the folder again, whole."
            )
    return [folder / name for name in names]


def weight_map(path: Path) -> dict[str, str]:
    """Read an index of weight files: tensor → file. Raises ``ModelFolderError`` when it can't be read."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(
            f"index of weight files can't be read: {error!r}", where=str(path), mend="Copy the file again."
        ) from None


def fingerprint(folder: str | Path) -> str:
    """SHA-256 (hexadecimal) that tells model folders apart: side files' content, weights' names, sizes and samples.

    Hashing 8 GB of weights at each start would cost more than it tells.
    """
    hashed = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        if path.name.endswith(".safetensors"):
            hashed.update(f"{path.name} {path.stat().st_size}".encode() + _samples_of(path))
        elif path.suffix == ".json":
            hashed.update(path.name.encode() + path.read_bytes())
    return hashed.hexdigest()


def _samples_of(path: Path, count: int = 256, sample_bytes: int = 4096) -> bytes:
    """``count`` pieces spread evenly over a file: other weights differ almost everywhere."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        pieces = []
        for place in range(0, size, max(size // count, sample_bytes)):
            file.seek(place)
            pieces.append(file.read(sample_bytes))
    return b"".join(pieces)


def iterate_weights(folder: str | Path, names: Collection[str] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) file by file; only the tensor in hand is in memory. ``names``: only these, default all.

    Raises ``ModelFolderError`` for a file that is cut off or not safetensors.
    """
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    if name != ALIAS and (names is None or name in names):
                        yield name, file.get_tensor(name)
        except SafetensorError as error:
            raise ModelFolderError(
                f"weight file is damaged: {error}", where=str(path), mend="Copy the file again."
            ) from None


def check_names(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], folder: str | Path) -> None:
    """Compare names and shapes with a folder's. Raises ``ModelFolderError`` naming the first that differ."""
    mend = "The folder belongs to another model or is incomplete: copy it again, or mend config.json."
    differing = {name: shape for name, shape in found.items() if name in expected and expected[name] != shape}
    for what, names in (
        ("tensors are missing", sorted(expected.keys() - found.keys())),
        ("tensors are not part of this model", sorted(found.keys() - expected.keys())),
        ("tensors have other shapes than config.json says", [f"{n} {s}" for n, s in sorted(differing.items())]),
    ):
        if names:
            raise ModelFolderError(f"{len(names)} {what}", where=str(folder), value=names[:3], mend=mend)


def shapes_in(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Return name → shape of every tensor, read from the files' headers alone."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelFolderError(
                f"weight file is damaged: {error}", where=str(path), mend="Copy the file again."
            ) from None
    shapes.pop(ALIAS, None)
    return shapes


def write_folder(
    target: str | Path,
    tensors: Iterable[tuple[str, torch.Tensor]],
    side_files: str | Path,
    *,
    end_ids: Iterable[int],
    texts: Mapping[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model folder: ``tensors`` as safetensors, every other file copied from the folder ``side_files``.

    ``end_ids`` go into ``generation_config.json``. ``texts``: files by name that get this content instead. The folder
    appears under its name only when it is whole and durable; after an exception nothing is left. Raises
    ``ModelFolderError`` when ``target`` exists.
    """
    target = Path(target)
    if target.exists():
        raise ModelFolderError("the folder exists already", where=str(target), mend="Delete it or name another.")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        copy_side_files(side_files, partial)
        for name, text in (texts or {}).items():
            (partial / name).write_text(text, encoding="utf-8")
        write_generation_config(partial, end_ids)
        _write_weights(partial, tensors, shard_bytes)
        for path in partial.iterdir():
            fsync_file(path)
        fsync_folder(partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    fsync_folder(target.parent)


def copy_side_files(source: str | Path, target: str | Path) -> None:
    """Copy every file of a model folder but hidden ones and weights with their indexes; see above for ``auto_map``."""
    for path in sorted(Path(source).iterdir()):
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(_OF_WEIGHTS):
            copy = Path(shutil.copyfile(path, Path(target) / path.name))
            if path.name.endswith("config.json"):
                _make_names_local(copy)


def save_beside_weights(source: str | Path, target: str | Path) -> None:
    """Add to a folder with config and weights what the model's ``source`` has beside them, if that is a folder.

    Nothing to add where the model was made anew, came from the hub, or is saved to where it lies. There transformers
    leaves the index of the files that it has replaced by a single one: that goes.
    """
    target = Path(target)
    if (target / _WEIGHTS).is_file():
        (target / INDEX).unlink(missing_ok=True)
    if not source or not Path(source, "config.json").is_file() or target.samefile(source):
        return
    config = target / "config.json"
    written = config.read_bytes()
    copy_side_files(source, target)
    if json.loads(config.read_bytes()) != json.loads(written):  # changed since it was read: the model's own counts
        config.write_bytes(written)
    if Path(source, "tokenizer.json").is_file():
        write_generation_config(target, end_token_ids(source))


def _make_names_local(path: Path) -> None:
    text = path.read_bytes().decode("utf-8")
    told = json.loads(text)
    auto_map = told.get("auto_map") if isinstance(told, dict) else None
    if not isinstance(auto_map, dict) or local_auto_map(auto_map) == auto_map:
        return
    for name in sorted(set(re.findall(r'"([^"]*--[^"]*)"', json.dumps(auto_map)))):
        text = text.replace(f'"{name}"', f'"{name.rpartition("--")[2]}"')
    path.write_bytes(text.encode("utf-8"))


def end_token_ids(folder: str | Path) -> list[int]:
    """Ids of ``<|endoftext|>`` and ``<|end|>`` in ``tokenizer.json``. Raises ``ModelFolderError`` without them."""
    path = Path(folder) / "tokenizer.json"
    try:
        tokens = json.loads(path.read_text(encoding="utf-8"))["added_tokens"]
        ids = {token["content"]: int(token["id"]) for token in tokens}
        return sorted(ids[token] for token in _END_TOKENS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"end tokens {_END_TOKENS} can't be read: {error!r}"
        raise ModelFolderError(what, where=str(path), mend="Copy the model's original file.") from None


def write_generation_config(folder: str | Path, end_ids: Iterable[int]) -> None:
    """The official files name </s>, which the model never writes: readers would generate without end."""
    config = read_config(folder)
    told = {
        "bos_token_id": config.raw.get("bos_token_id", 1),
        "eos_token_id": sorted(end_ids),
        "pad_token_id": config.padding_token_id,
    }
    write_json(Path(folder) / "generation_config.json", told)


def _write_weights(folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], shard_bytes: int) -> None:
    shards: list[dict[str, int]] = []
    held: dict[str, torch.Tensor] = {}

    def flush() -> None:
        path = folder / f"part-{len(shards)}"
        try:
            save_file(held, path, metadata={"format": "pt"})
        except SafetensorError as error:
            if not (told := re.search(r"\(os error (\d+)\)", str(error))):  # how it tells of a full disk
                raise
            raise OSError(int(told[1]), os.strerror(int(told[1])), str(path)) from None
        shutil.copymode(folder / "config.json", path)  # safetensors writes for the owner alone
        shards.append({name: tensor.nbytes for name, tensor in held.items()})
        held.clear()

    for name, tensor in tensors:
        if held and sum(t.nbytes for t in held.values()) + tensor.nbytes > shard_bytes:
            flush()
        held[name] = tensor.contiguous()
    flush()
    if len(shards) == 1:
        (folder / "part-0").rename(folder / _WEIGHTS)
        return
    weight_map = {}
    for number, sizes in enumerate(shards):
        name = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / f"part-{number}").rename(folder / name)
        weight_map.update(dict.fromkeys(sizes, name))
    total = sum(size for sizes in shards for size in sizes.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})

"""Is a model folder whole? What ``tools/check_model.py`` prints.

Enters: a folder. Leaves: findings, one per part of it: fine, a notice (nothing of ours needs it, or it only differs
from the official file), or a fault that training would stop at. Headers, hashes and names take seconds; the values are
read tensor by tensor, so that memory holds one at a time.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from phi3v_dist.errors import ModelFolderError, UserError
from phi3v_dist.files import sha256_of
from phi3v_dist.model.configuration import Phi3VConfig
from phi3v_dist.model.folder import ALIAS, INDEX, check_names, read_config, shapes_in, weight_files, weight_map
from phi3v_dist.model.phi3v import Phi3VForCausalLM

FINE, NOTICE, FAULT = "fine", "notice", "FAULT"
_MEND = "Copy the folder again, all files from one model."
_NEEDED = ("tokenizer.json", "preprocessor_config.json", "config.json")
PHI_3, PHI_35 = "Phi-3-vision-128k-instruct", "Phi-3.5-vision-instruct"
# SHA-256 of the official side files
KNOWN = {
    "config.json": {
        PHI_3: "e3fbad3779524ca7e4186f276cd0fd81e2c2b33aaed3331fcced7253d5f7d391",
        PHI_35: "567e28c638a3e41aba1a304ae58b283845ad07e1c60e970643b0ad8fc229b382",
    },
    "preprocessor_config.json": {
        PHI_3: "7ac4fc569fc58a051e9d8ecca34bed7b23c9655d52062e1a1cfd1bf128fb1bad",
        PHI_35: "0f3d920fcec587bb425312d30b0660e1fabaf46a75961f2b75ddbb1ff92de01c",
    },
    "special_tokens_map.json": dict.fromkeys(
        (PHI_3, PHI_35), "f9535fada19315e0d8eb89521cebe111c008fee98d16e7c6744acfb50505d8c3"
    ),
    "tokenizer.json": {
        PHI_3: "005df01af5e16e758ff74c1a31e7b8910eb75c7d5626689d6bdee40a779d44fe",
        PHI_35: "493f8ad437be806d5ccdc57e91479bdbb0c656448c1b89ff70f7653530d78518",
    },
    "tokenizer_config.json": {
        PHI_3: "948a2ff1e1cf01d05e4a9880c8145818b3de2a2cb0492eb3eba6fa82fc4fd8ba",
        PHI_35: "581d4654c018fbcef2504b57a805dcad37126038137b5d25d22b5a02abc1ef29",
    },
}


@dataclass(frozen=True)
class Finding:
    """What was found about one part of a folder. ``state``: FINE, NOTICE or FAULT."""

    part: str
    state: str
    told: str


def finding(part: str, check: Callable[[], str]) -> Finding:
    """Call ``check``; what it returns is fine, a ``UserError`` is a fault."""
    try:
        return Finding(part, FINE, check())
    except UserError as error:
        return Finding(part, FAULT, str(error))


def check_folder(folder: str | Path) -> list[Finding]:
    """Everything but the values and the tokenizer's inside. Raises ``ModelFolderError`` where there is no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelFolderError("no such folder", where=str(folder), mend="Name a model's folder.")
    found = [
        finding("config", lambda: _config(folder)),
        finding("weight files", lambda: _files(folder)),
    ]
    if all(part.state == FINE for part in found):
        found += [finding("names and shapes", lambda: _names(folder)), _types(folder)]
    return [*found, *(_side_file(folder, name) for name in KNOWN), *_remote_code(folder)]


def check_values(tensors: Iterable[tuple[str, torch.Tensor]]) -> Finding:
    """Whether every value is finite, and no weight nothing but zeros, which is what a broken download leaves."""
    infinite, empty, count = [], [], 0
    try:
        for name, tensor in tensors:
            count += 1
            low, high = torch.aminmax(tensor)
            if not (torch.isfinite(low) and torch.isfinite(high)):
                infinite.append(name)
            elif low == high == 0 and name.endswith("weight"):  # a bias or a separator may be
                empty.append(name)
    except UserError as error:
        return Finding("values", FAULT, str(error))
    if infinite:
        return Finding("values", FAULT, f"{len(infinite)} tensors hold NaN or infinity: {_first(infinite)}. {_MEND}")
    if empty:
        return Finding("values", FAULT, f"{len(empty)} weights are nothing but zeros: {_first(empty)}. {_MEND}")
    return Finding("values", FINE, f"all finite in {count} tensors")


def check_fit(model: Phi3VConfig, vocabulary: int, crop_size: int, folder: str | Path) -> str:
    """Hold tokens and crops to the model they go into: files of two models would fail only deep inside a forward.

    ``vocabulary``: ids of the tokenizer; ``crop_size``: pixels along a crop. Raises ``ModelFolderError``.
    """
    side = model.vision().image_size
    if crop_size != side:
        what = f"preprocessor_config.json makes crops of another size than the vision tower's {side} pixels"
        raise ModelFolderError(what, where=str(folder), value=crop_size, mend=_MEND)
    if vocabulary > model.vocab_size:
        what = f"tokenizer.json has more tokens than the {model.vocab_size} of config.json"
        raise ModelFolderError(what, where=str(folder), value=vocabulary, mend=_MEND)
    return f"{vocabulary:,} tokens for {model.vocab_size:,} rows, crops of {side} pixels"


def _config(folder: Path) -> str:
    config = read_config(folder)
    rope = "no LongRoPE" if config.long_rope is None else f"RoPE {config.long_rope['type']}"
    return f"phi3_v, {config.num_hidden_layers} layers of width {config.hidden_size}, {rope}"


def _files(folder: Path) -> str:
    """Name every missing file, not the first alone."""
    index = folder / INDEX
    if not index.is_file() and not (folder / "model.safetensors").is_file():
        what = "neither model.safetensors nor model.safetensors.index.json is there"
        raise ModelFolderError(what, where=str(folder), mend=_MEND)
    listed = sorted(set(weight_map(index).values())) if index.is_file() else []
    missing = [name for name in listed if not (folder / name).is_file()]
    if missing:
        raise ModelFolderError("weight files are missing", where=str(folder), value=missing, mend=_MEND)
    files = weight_files(folder)
    return f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e9:.2f} GB"


def check_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return name → shape of a folder's tensors, held to what its config.json says. Raises ``ModelFolderError``."""
    with torch.device("meta"):
        model = Phi3VForCausalLM(read_config(folder))
    shapes = shapes_in(folder)
    check_names({name: tuple(p.shape) for name, p in model.named_parameters()}, shapes, folder)
    return shapes


def _names(folder: Path) -> str:
    shapes = check_shapes(folder)
    index = folder / INDEX
    if index.is_file() and (absent := sorted(shapes.keys() ^ (weight_map(index).keys() - {ALIAS}))):
        raise ModelFolderError("files and index differ", where=str(index), value=absent[:3], mend=_MEND)
    return f"{len(shapes)} tensors, {sum(map(math.prod, shapes.values())):,} parameters, as config.json says"


def _types(folder: Path) -> Finding:
    counts: Counter[str] = Counter()
    try:
        for path in weight_files(folder):
            with safe_open(path, framework="pt") as file:
                counts.update(file.get_slice(name).get_dtype() for name in file.keys())  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        return Finding("types", FAULT, f"can't be read: {error}. {_MEND}")
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    if not counts.keys() <= {"BF16", "F16", "F32"}:
        return Finding("types", FAULT, f"{told}: only BF16, F16 and F32 can be trained. {_MEND}")
    if counts.keys() == {"BF16"}:
        return Finding("types", FINE, told)
    return Finding("types", NOTICE, f"{told}: the official files are BF16")


def _side_file(folder: Path, name: str) -> Finding:
    path = folder / name
    if not path.is_file():
        if name in _NEEDED:
            return Finding(name, FAULT, f"missing. {_MEND}")
        return Finding(name, NOTICE, "missing: training doesn't read it, transformers and vLLM do")
    digest = sha256_of(path)
    models = [model for model, known in KNOWN[name].items() if known == digest]
    if models:
        return Finding(name, FINE, "that of " + " and ".join(models))
    return Finding(name, NOTICE, f"changed: no official file has this SHA-256 ({digest[:12]}…)")


def _remote_code(folder: Path) -> list[Finding]:
    """The official classes that ``auto_map`` names: other software runs them."""
    files = set()
    for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
        try:
            auto_map = json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map") or {}
            files |= {f"{place.rpartition('--')[2].split('.')[0]}.py" for place in auto_map.values()}
        except (OSError, ValueError, AttributeError):
            continue  # missing or broken: told above
    missing = sorted(file for file in files if not (folder / file).is_file())
    if missing:
        told = f"{', '.join(missing)} missing: training doesn't run them, vLLM and transformers' remote code do"
        return [Finding("official code", NOTICE, told)]
    return [Finding("official code", FINE, ", ".join(sorted(files)))] if files else []


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")

"""The peers of reading that are no dependency of ours: MosaicML streaming and litdata, each with its own files.

Neither goes into our environment: streaming 0.13 asks for numpy below 2.2 and transformers below 5. The measurement
takes both from a folder on PYTHONPATH (docs/measurements/shards.md). streaming imports torchvision for a class that is
not used here; where torchvision is missing, empty modules stand in for that import.
"""

import importlib.machinery
import importlib.util
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import webdataset


def _samples(tars: Path) -> Iterator[dict[str, bytes]]:
    for sample in webdataset.WebDataset(sorted(map(str, tars.rglob("*.tar"))), shardshuffle=False):
        yield {"picture": sample["00.jpg"], "json": sample["json"]}


def _import_streaming() -> types.ModuleType:
    if importlib.util.find_spec("torchvision") is None:
        names = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional")
        for name in names:
            module = types.ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
            module.__path__ = []
            sys.modules[name] = module
        sys.modules["torchvision.datasets"].VisionDataset = object  # type: ignore[attr-defined]
        sys.modules["torchvision.transforms.functional"].to_tensor = None  # type: ignore[attr-defined]
    import streaming

    return streaming


def _make_streaming(tars: Path, folder: Path) -> None:
    streaming = _import_streaming()
    shutil.rmtree(folder, ignore_errors=True)
    with streaming.MDSWriter(out=str(folder), columns={"picture": "bytes", "json": "bytes"}) as writer:
        for sample in _samples(tars):
            writer.write(sample)


def _read_streaming(folder: Path) -> Iterator:
    streaming = _import_streaming()
    streaming.base.util.clean_stale_shared_memory()
    return iter(streaming.StreamingDataset(local=str(folder), shuffle=True, batch_size=1))


def _sample_of(tar: str) -> Iterator[dict[str, bytes]]:
    for sample in webdataset.WebDataset([tar], shardshuffle=False):
        yield {"picture": sample["00.jpg"], "json": sample["json"]}


def _make_litdata(tars: Path, folder: Path) -> None:
    import litdata

    shutil.rmtree(folder, ignore_errors=True)
    inputs = sorted(map(str, tars.rglob("*.tar")))
    litdata.optimize(_sample_of, inputs, output_dir=str(folder), num_workers=1, chunk_bytes="64MB", verbose=False)


def _read_litdata(folder: Path) -> Iterator:
    import litdata

    return iter(litdata.StreamingDataset(str(folder), shuffle=True))


def _where_installed(make: Callable[[Path, Path], None], name: str, tars: Path, folder: Path) -> str | None:
    """Why there is nothing to measure, or None."""
    if importlib.util.find_spec(name) is None:
        return "not installed"
    make(tars, folder)
    return None


MAKERS = {
    "streaming": partial(_where_installed, _make_streaming, "streaming"),
    "litdata": partial(_where_installed, _make_litdata, "litdata"),
}
READERS = {"streaming": _read_streaming, "litdata": _read_litdata}

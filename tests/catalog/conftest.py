"""Servers on loopback that misbehave, and a table of the URLs that are fetched from them."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty_server import FaultyNameServer, FaultyServer

from phi3v_dist.config.fetch_options import FetchOptions
from phi3v_dist.config.options import CatalogOptions


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    server = FaultyServer()
    yield server
    server.close()


@pytest.fixture
def other_server() -> Iterator[FaultyServer]:
    server = FaultyServer()
    yield server
    server.close()


@pytest.fixture
def name_server() -> Iterator[FaultyNameServer]:
    server = FaultyNameServer()
    yield server
    server.close()


@pytest.fixture
def catalog(tmp_path: Path) -> Callable[..., CatalogOptions]:
    """A table with one product for each argument: a picture, or a list of them."""

    def catalog(*pictures: str | list[str]) -> CatalogOptions:
        with open(tmp_path / "products.csv", "w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["product_code", "title", "category", "price", "currency", "picture"])
            for number, cell in enumerate(pictures):
                text = json.dumps(cell) if isinstance(cell, list) else cell
                writer.writerow([f"P{number}", "Bag", "BAGS", "10", "EUR", text])
        columns = {name: name for name in ("title", "category", "price", "currency")} | {"image_path": "picture"}
        folders = {"table": str(tmp_path / "products.csv"), "fetched_folder": str(tmp_path / "fetched")}
        return CatalogOptions.model_validate(folders | {"columns": columns})

    return catalog


@pytest.fixture
def quick() -> Callable[..., FetchOptions]:
    """Options for a server that need not be spared."""

    def quick(**options: object) -> FetchOptions:
        fast = {"requests_per_second": 0, "backoff_seconds": 0.01, "attempts": 2, "deadline_seconds": 5}
        return FetchOptions.model_validate(fast | options)

    return quick

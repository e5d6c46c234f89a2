"""The page of a run: one file that needs no other, true to its inputs, safe against its texts."""

import base64
import io
import json
import xml.etree.ElementTree as ET

import pytest
from PIL import Image
from report_page import HOSTILE, Page

from phi3v_dist.catalog.demo import make_demo_catalog
from phi3v_dist.config.options import CatalogOptions, ShardOptions
from phi3v_dist.documents.prompt import answer_text
from phi3v_dist.errors import RunError
from phi3v_dist.evaluation.answers import Prediction, parse_answer
from phi3v_dist.evaluation.run import evaluation_of
from phi3v_dist.files import write_json, write_text
from phi3v_dist.reports.run import write_run_report
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.write import make_shards
from phi3v_dist.tracking.metrics import MetricsFile


def _train(folder, first, last):
    metrics = MetricsFile(folder)
    for step in range(first, last + 1):
        validation = {"validation_loss": 2.0, "price_error_median": 0.4} if step % 5 == 0 else {}
        metrics.log_step(step, {"loss": 3 / step, "tokens": 100, "tokens_per_second": 50.0 + step, **validation})
    metrics.close()


def _evaluate(folder):
    """Predictions of held-out products: the first right, the second of no form, the third with a wrong title."""
    index = load_index(folder / "shards")
    rows = [index.row(number) for number in range(len(index))]
    heldout = [row for row in rows if row["split"] == "heldout"]
    answers = [answer_text(row["title"], row["category"], row["price"]) for row in heldout]
    answers[1] = HOSTILE
    answers[2] = answer_text("Wrong", heldout[2]["category"], heldout[2]["price"] * 1.5)
    names = ("sample", "product_code", "title", "category", "price")
    predictions = [
        Prediction(*(row[name] for name in names), answer, parse_answer(answer))
        for row, answer in zip(heldout, answers, strict=True)
    ]
    write_text(folder / "predictions.jsonl", "".join(json.dumps(each.as_line()) + "\n" for each in predictions))
    truths = [prediction.truth for prediction in predictions]
    write_json(folder / "evaluation.json", evaluation_of(predictions, truths) | {"split": "heldout"})
    return predictions


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "shop"
    make_demo_catalog(folder / "catalog", 40, 0)
    catalog = CatalogOptions(table=str(folder / "catalog/products.csv"), heldout_share=0.4)
    make_shards(catalog, ShardOptions(folder=str(folder / "shards"), workers=1))
    (folder / "train").mkdir()
    _train(folder / "train", 1, 8)
    _train(folder / "train", 6, 12)
    write_text(folder / "train/config.yaml", f"training:\n  seed: 4711  # {HOSTILE}\n")
    predictions = _evaluate(folder)
    return predictions, Page(write_run_report(folder).read_text(encoding="utf-8"))


def test_the_page_needs_no_other_file_and_runs_no_script(finished):
    _, page = finished
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)
    assert "script" not in page.tags
    assert "link" not in page.tags


def test_texts_of_products_and_configuration_are_never_markup(finished):
    _, page = finished
    assert HOSTILE in page.texts
    assert f"training: seed: 4711 # {HOSTILE}" in page.texts


def test_scores_stand_beside_their_baselines(finished):
    predictions, page = finished
    count = len(predictions)
    row = page.texts.index("answers that parse", page.texts.index("most frequent category,"))
    assert page.texts[row + 1 : row + 4] == [f"{(count - 1) / count:.1%}", "100.0%", "100.0%"]
    assert f"{count} products of heldout" in page.texts


def test_each_curve_is_a_drawing_for_light_and_for_dark_pages(finished):
    _, page = finished
    drawings = [address for address in page.addresses if address.startswith("data:image/svg+xml;base64,")]
    assert len(drawings) == 2 * 3  # loss, throughput, price error; the rest was not logged
    for drawing in drawings:
        root = ET.fromstring(base64.b64decode(drawing.split(",")[1]))
        assert root.tag.endswith("svg")


def test_each_tile_has_its_picture_and_marks(finished):
    predictions, page = finished
    thumbnails = [address for address in page.addresses if address.startswith("data:image/jpeg;base64,")]
    assert len(thumbnails) == len(predictions)
    with Image.open(io.BytesIO(base64.b64decode(thumbnails[0].split(",")[1]))) as picture:
        assert max(picture.size) <= 220
    assert f"title: {predictions[2].title}" in page.texts
    assert any(text.endswith("(50.0% off)") for text in page.texts)


def test_facts_are_those_of_the_metrics(finished):
    _, page = finished
    facts = dict(zip(page.texts, page.texts[1:], strict=False))
    assert facts["steps"] == "12"
    assert facts["tokens"] == "1,200"
    assert facts["last loss"] == "0.2500"
    assert facts["steps done again after a kill"] == "3: all losses equal"


def test_a_run_that_was_not_evaluated_says_so(tmp_path):
    (tmp_path / "train").mkdir()
    _train(tmp_path / "train", 1, 3)
    page = Page(write_run_report(tmp_path).read_text(encoding="utf-8"))
    assert any("not evaluated yet" in text for text in page.texts)
    assert "train/config.yaml is missing." in page.texts


def test_equal_inputs_give_equal_pages(tmp_path):
    (tmp_path / "train").mkdir()
    _train(tmp_path / "train", 1, 3)
    assert write_run_report(tmp_path).read_bytes() == write_run_report(tmp_path).read_bytes()


def test_a_folder_without_steps_is_one_line(tmp_path):
    with pytest.raises(RunError, match=r"metrics.jsonl: no steps to report"):
        write_run_report(tmp_path)


def test_a_damaged_evaluation_is_one_line(tmp_path):
    (tmp_path / "train").mkdir()
    _train(tmp_path / "train", 1, 3)
    write_text(tmp_path / "evaluation.json", "{")
    with pytest.raises(RunError, match=r"evaluation.json: not JSON"):
        write_run_report(tmp_path)

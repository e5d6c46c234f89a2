"""A model folder scored on shards: real generation, files, errors; and a model that answers the truth."""

import csv
import json
import shutil
from statistics import median

import pytest

from phi3v_dist.errors import ModelFolderError, ShardError
from phi3v_dist.evaluation import generate as generate_module
from phi3v_dist.evaluation.answers import ParsedAnswer, Prediction, parse_answer
from phi3v_dist.evaluation.generate import answer_samples, show_predictions
from phi3v_dist.evaluation.run import evaluate_folder, print_scores
from phi3v_dist.images import open_image
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.read import ShardReader


@pytest.fixture(scope="module")
def evaluation(run_parent):
    return evaluate_folder(run_parent / "export", run_parent / "shards", max_new_tokens=8, device="cpu")


@pytest.fixture
def lines(evaluation, run_parent):
    return [json.loads(line) for line in (run_parent / "predictions.jsonl").read_text().splitlines()]


def test_every_heldout_product_is_answered_once_beside_its_truth(lines, run_parent):
    with open(run_parent / "catalog/products.csv", encoding="utf-8") as handle:
        table = {row["product_code"]: row for row in csv.DictReader(handle)}
    index = load_index(run_parent / "shards")
    assert [line["sample"] for line in lines] == index.numbers("heldout").tolist()
    for line in lines:
        row = table[line["product_code"]]
        assert (line["title"], line["category"]) == (row["title"], row["category3_code"])
        assert line["price"] == float(row["full_price"])


def test_an_untrained_model_scores_nothing_and_the_baselines_are_the_shards_own(evaluation, lines, run_parent):
    assert json.loads((run_parent / "evaluation.json").read_text()) == evaluation
    assert evaluation["count"] == len(lines) > 5
    assert evaluation["category_accuracy"] == evaluation["parsed_share"] == 0.0
    index = load_index(run_parent / "shards")
    guess = median(index.column("price")[index.numbers("train")])
    expected = median(abs(guess - line["price"]) / line["price"] for line in lines)
    found = evaluation["baseline"]["most_frequent_category"]["price_median_relative_error"]
    assert found == pytest.approx(expected)


def test_answers_do_not_depend_on_how_many_products_are_answered_at_once(evaluation, lines, run_parent, tmp_path):
    options = {"max_new_tokens": 8, "device": "cpu", "batch_products": 3, "output_folder": tmp_path}
    evaluate_folder(run_parent / "export", run_parent / "shards", **options)
    assert [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()] == lines


def test_scores_are_printed_beside_what_an_answer_without_looking_scores(evaluation, capsys):
    print_scores(evaluation)
    printed = capsys.readouterr().out
    accuracy = evaluation["baseline"]["most_frequent_category"]["category_accuracy"]
    assert "without looking" in printed
    assert f"{accuracy:.3f}" in printed


def test_a_missing_tensor_is_an_error_and_never_a_random_one(run_parent, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(run_parent / "export", tmp_path / "export")
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFolderError, match=r"1 tensors are missing .*lm_head"):
        evaluate_folder(folder, run_parent / "shards", device="cpu")


@pytest.mark.parametrize("missing", ["export", "shards"])
def test_a_missing_folder_is_one_line_that_names_it(run_parent, tmp_path, missing):
    folders = {name: tmp_path / name if name == missing else run_parent / name for name in ("export", "shards")}
    with pytest.raises((ModelFolderError, ShardError), match=str(tmp_path / missing)):
        evaluate_folder(folders["export"], folders["shards"], device="cpu")


def test_a_split_without_samples_is_one_line(run_parent):
    with pytest.raises(ShardError, match=r"no samples.*'nowhere'"):
        evaluate_folder(run_parent / "export", run_parent / "shards", "nowhere", device="cpu")


def test_a_model_that_writes_the_truth_is_right_about_each_product(run_parent, monkeypatch):
    from phi3v_dist.config.options import DocumentOptions
    from phi3v_dist.documents.processor import DocumentProcessor
    from phi3v_dist.evaluation.run import _load_model

    index = load_index(run_parent / "shards")
    reader = ShardReader(index)
    numbers = index.numbers("heldout").tolist()
    processor = DocumentProcessor.from_folder(run_parent / "export", DocumentOptions())
    documents = [processor.document(reader.sample(number)) for number in numbers]
    answers = iter([document.labels[document.labels >= 0][:-1].tolist() for document in documents])
    monkeypatch.setattr(generate_module, "generate", lambda _model, prompts, *_: [next(answers) for _ in prompts])
    model = _load_model(run_parent / "export", "cpu")
    predictions = answer_samples(model, processor, reader, numbers, max_new_tokens=4, batch_products=5)
    assert [prediction.sample for prediction in predictions] == numbers
    assert all(prediction.parsed == prediction.truth for prediction in predictions)
    shown = show_predictions(predictions, reader)
    assert shown[0].picture.tobytes() == open_image(reader.sample(numbers[0]).images[0]).tobytes()
    fields = shown[0].fields
    assert parse_answer(shown[0].answer) == ParsedAnswer(fields["title"], fields["category"], fields["price"])


@pytest.fixture
def damaged_shards(run_parent, tmp_path):
    """A copy of the shards with one byte of the second held-out picture flipped, and that sample's number."""
    shutil.copytree(run_parent / "shards", tmp_path / "shards")
    index = load_index(tmp_path / "shards")
    number = int(index.numbers("heldout")[1])
    row = index.row(number)
    with open(tmp_path / "shards" / row["shard"], "r+b") as tar:
        tar.seek(row["image_offset"][0] + 100)
        byte = tar.read(1)[0]
        tar.seek(-1, 1)
        tar.write(bytes([byte ^ 255]))
    return tmp_path / "shards", number


def test_damaged_sample_counts_as_unparsed_and_changes_no_other_answer(
    damaged_shards, lines, run_parent, tmp_path, caplog
):
    shards, number = damaged_shards
    evaluation = evaluate_folder(
        run_parent / "export", shards, max_new_tokens=8, device="cpu", output_folder=tmp_path / "scores"
    )
    found = [json.loads(line) for line in (tmp_path / "scores/predictions.jsonl").read_text().splitlines()]
    assert evaluation["count"] == len(lines)
    expected = [line | ({"answer": "", "parsed": None} if line["sample"] == number else {}) for line in lines]
    assert found == expected
    assert f"sample {number} is damaged" in caplog.text


def test_damaged_sample_is_shown_as_a_white_picture(damaged_shards, lines):
    shards, number = damaged_shards
    index = load_index(shards)
    row = index.row(number)
    prediction = Prediction(number, row["product_code"], row["title"], row["category"], row["price"], "", None)
    shown = show_predictions([prediction], ShardReader(index))[0]
    assert shown.picture.size == index.sizes(number)[0]
    assert shown.picture.getextrema() == ((255, 255),) * 3

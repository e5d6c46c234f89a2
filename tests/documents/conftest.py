"""A tiny model folder: a tokenizer with Phi-3's special tokens and rules, and crops of 56 pixels."""

import json
import os
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ["<unk>", "<s>", "<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>"]


def _tiny_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    digits = pre_tokenizers.Split(Regex(r"\d"), behavior="isolated")
    tokenizer.pre_tokenizer = digits
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=tokens, show_progress=False)
    tokenizer.train_from_iterator(["Product: red bag, Category: Bags, Full Price: 19.9", "What is shown?"] * 2, trainer)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    raw = json.loads(tokenizer.to_str())
    raw["added_tokens"] = raw["added_tokens"][: len(SPECIAL)]  # bytes are plain vocabulary, as in the official file
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    tokenizer.add_special_tokens([AddedToken("<|assistant|>", rstrip=True, normalized=False, special=True)])
    return tokenizer


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_model")
    _tiny_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"num_crops": 4, "crop_size": 56}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def official_folder() -> Path:
    folder = os.environ.get("PHI3V_OFFICIAL")
    if folder is None:
        pytest.skip("PHI3V_OFFICIAL names no folder with the official tokenizer files")
    return Path(folder, "phi3v")

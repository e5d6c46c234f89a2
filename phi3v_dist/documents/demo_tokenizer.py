"""The demo model's own small tokenizer, of the same make as Phi-3's: byte fallback, ``▁`` for spaces, special tokens.

Enters: texts like the answers it shall write. Leaves: a ``tokenizers.Tokenizer`` whose file the documents room reads
like the official one (facts: phi3v.md, section 6): no pre-tokenizer, BOS before each text, one token per digit.
"""

import json
import string
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from phi3v_dist.documents.prompt import QUESTION

_PIECES_BEFORE_SPECIAL = 640
_SPECIAL = [("<|endoftext|>", False), ("<|assistant|>", True), ("<|system|>", False), ("<|end|>", False),
            ("<|user|>", False), ("<|image|>", True)]  # fmt: skip


def build_demo_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Train byte-pair merges inside words on ``texts``; digits and punctuation stay single."""
    base = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    # Only while training: merges stay inside words, so the finished tokenizer needs no pre-tokenizer (nor has Phi-3's).
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?\p{L}+|."), "isolated")
    alphabet = list(string.ascii_letters + string.digits + string.punctuation)
    trainer = trainers.BpeTrainer(
        vocab_size=_PIECES_BEFORE_SPECIAL, special_tokens=base, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([QUESTION, *texts], trainer)
    return _finish(json.loads(tokenizer.to_str()))


def _finish(trained: dict) -> Tokenizer:
    # The trainer counts the byte pieces as special; in Phi-3 they are ordinary vocabulary, kept when decoding.
    trained["added_tokens"] = [token for token in trained["added_tokens"] if not token["content"].startswith("<0x")]
    trained["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(trained))
    tokenizer.add_special_tokens([AddedToken(text, rstrip=rstrip, normalized=False) for text, rstrip in _SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer

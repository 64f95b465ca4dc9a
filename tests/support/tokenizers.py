"""Tiny tokenizers in the layout that the hub uses, for the snapshots of `support.snapshots`; no network."""

from __future__ import annotations

import io
import string
from pathlib import Path

#: What a tokenizer of SentencePiece learns its pieces from.
SENTENCES = (
    "a photo of a lifted lead, side light",
    "solder bridge between two pins of a connector",
    "missing component, tombstone, shifted resistor",
    "the quick brown fox jumps over the lazy dog",
    "0123456789 solar cell with a dark crack",
)


def clip_tokenizer(folder: Path) -> None:
    """CLIP's kind: byte pairs of lower-case letters, begun and ended by tokens of their own."""
    from transformers import CLIPTokenizer

    letters = string.ascii_lowercase + string.digits + ",.-"
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    merges = [("l", "e"), ("le", "a"), ("lea", "d</w>")]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77).save_pretrained(folder)


def siglip_tokenizer(folder: Path) -> None:
    """SigLIP's kind: SentencePiece, which transformers lower-cases for and strips of punctuation; no mask."""
    import sentencepiece
    from transformers import SiglipTokenizer

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, vocab_size=90, hard_vocab_limit=False,
        add_dummy_prefix=False, unk_id=0, eos_id=1, bos_id=-1, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    SiglipTokenizer(str(folder / "spiece.model"), model_input_names=["input_ids"]).save_pretrained(folder)


def gemma_tokenizer(folder: Path, kind: str = "GemmaTokenizer") -> None:
    """SigLIP2's kind: byte pairs of letters, with other tokens for capitals unless the class says otherwise."""
    import transformers

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocabulary = {piece: number for number, piece in enumerate([*special, "▁", *string.ascii_letters, *",.-"])}
    made = getattr(transformers, kind)(
        vocab=vocabulary, merges=[], model_max_length=64, padding_side="right", model_input_names=["input_ids"]
    )
    made.save_pretrained(folder)

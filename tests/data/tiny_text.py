"""A tokenizer whose tokens are bytes, so that token sequences read as text, and small files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from flaxen.data.batch import Batch
from flaxen.data.iterate import DataIterator
from flaxen.text.parts import TokenizerParts
from flaxen.text.tokenizer import Tokenizer

# As ChatML, without a system message of its own.
TEMPLATE = (
    "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
SPECIAL = ("<bos>", "<eos>", "<turn>")


def make_tokenizer(
    *,
    chat_template: str | None = TEMPLATE,
    bos: bool = False,
    eos: bool = True,
    merges: Iterable[tuple[str, str]] = (),
) -> Tokenizer:
    merges = list(merges)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*alphabet, *map("".join, merges)])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL))
    ids = {token: backend.token_to_id(token) for token in SPECIAL}
    return Tokenizer(
        TokenizerParts(
            backend=backend,
            bos_token_id=ids["<bos>"] if bos else None,
            eos_token_ids=(ids["<eos>"],) if eos else (),
            chat_template=chat_template,
            prefix_ids=(ids["<bos>"],) if bos else (),
        )
    )


TOKENIZER = make_tokenizer()


def text_of(ids: Iterable[int], tokenizer: Tokenizer = TOKENIZER) -> str:
    return tokenizer.decode((int(i) for i in ids), skip_special_tokens=False)


def learned(tokens: np.ndarray, weights: np.ndarray, tokenizer: Tokenizer = TOKENIZER) -> str:
    """The text of the tokens with a loss; "|" where they are not one after the other."""
    where = np.flatnonzero(weights)
    runs = np.split(where, np.flatnonzero(np.diff(where) > 1) + 1)
    return "|".join(text_of(tokens[run], tokenizer) for run in runs)


def segments(batch: Batch) -> list[list[tuple[str, str]]]:
    """For each row, each segment's tokens and learned targets, as text."""
    rows = []
    for i in range(len(batch.tokens)):
        ids = batch.segment_ids[i]
        row = []
        for segment in range(1, int(ids.max(initial=0)) + 1):
            (where,) = np.nonzero(ids == segment)
            assert (np.diff(where) == 1).all()
            assert batch.positions[i, where].tolist() == list(range(len(where)))
            # Targets never come from beyond the segment: each is the token after it.
            assert (batch.targets[i, where[:-1]] == batch.tokens[i, where[1:]]).all()
            row.append(
                (
                    text_of(batch.tokens[i, where]),
                    learned(batch.targets[i, where], batch.loss_weights[i, where]),
                )
            )
        padding = ids == 0
        assert (np.flatnonzero(padding) >= len(ids) - padding.sum()).all()
        assert (batch.targets[i, padding] == -1).all()
        assert not batch.loss_weights[i, padding].any()
        rows.append(row)
    return rows


def write_jsonl(path: Path, records: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def chat(*turns: str, **more: Any) -> dict[str, Any]:
    """User and assistant in turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return {"messages": messages, **more}


def num_batches(data: DataIterator[Any]) -> int:
    """The batches from here to the end."""
    left = data.remaining()
    assert left is not None
    return left.num_batches

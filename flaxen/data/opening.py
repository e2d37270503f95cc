"""Opens data: files or records, tokenized by a model's tokenizer, as batches.

Deliberately does not know the order of records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flaxen.data.config import DataConfig
from flaxen.data.corpus import Corpus
from flaxen.data.encode import Encoder
from flaxen.data.fit import MOST_RECORDS, fit_rows, with_longest_row
from flaxen.data.iterate import DataIterator, batches_of
from flaxen.data.lines import RecordSource
from flaxen.data.token_store import TokenStore
from flaxen.text.chat import ChatTemplate
from flaxen.text.given_template import with_template
from flaxen.text.tokenizer import Tokenizer


def open_data(
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    template: ChatTemplate | None = None,
    vocab_size: int | None = None,
    max_length: int | None = None,
    multiple: int = 1,
    sources: Sequence[RecordSource] | None = None,
    store: TokenStore | None = None,
    pairs: bool = False,
) -> DataIterator[Any]:
    """Batches of packed sequences, to train on or to evaluate; or of preference pairs.

    Args:
      config: files, order, sizes.
      tokenizer: the model's tokenizer.
      template: the chat template; None is the config's, or else the model's own.
      vocab_size: the model's, which may be less than the tokenizer's; None is the tokenizer's.
      max_length: the most tokens of a row, if the config leaves that open; None for no limit.
      multiple: rows of a batch are a multiple of this, if the config leaves their number open.
      sources: the records, if they are not in config.files; one source for each of these.
      store: keeps the tokenized records; None makes a TokenStore with its defaults.
      pairs: the records are preference pairs, of which each row of a PairBatch has one.

    Returns:
      An iterator over Batch, or over PairBatch.

    Raises:
      ValueError: a record is bad and bad ones are not allowed, a file is invalid, or no record is
          good.
      OSError: a file can't be read.
    """
    tokenizer = with_template(tokenizer, config.chat_template)
    encoder = Encoder(tokenizer, template, vocab_size=vocab_size)
    cut = with_longest_row(config, max_length)
    corpus = Corpus(cut, encoder, pairs=pairs, sources=sources, store=store)
    return batches_of(corpus, _fitted(config, cut, corpus, multiple), tokenizer)


def _fitted(config: DataConfig, cut: DataConfig, corpus: Corpus, multiple: int) -> DataConfig:
    """The configuration with the sizes that it leaves open."""
    if config.batch_size is not None and config.sequence_length is not None:
        return config
    assert cut.sequence_length is not None
    lengths = corpus.lengths() if len(corpus) <= MOST_RECORDS else None
    return fit_rows(
        config, lengths, longest=cut.sequence_length, pairs=corpus.has_pairs, multiple=multiple
    )

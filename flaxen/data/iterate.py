"""Batches in an order determined by a seed; reading can be resumed anywhere.

Records are read in windows of enough tokens for some rows, and each window is packed on its own. So
the position in the data is three numbers: the epoch, the start of the window, and the rows that
were taken from it.

Deliberately does not know: files, texts, the use of a batch.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from flaxen.data.config import DataConfig
from flaxen.data.corpus import Corpus, CorpusReport
from flaxen.data.encode import TokenSequence
from flaxen.data.pack import PackedRow, collate, collate_pairs, pack
from flaxen.text.tokenizer import Tokenizer

BatchT = TypeVar("BatchT")  # Batch or PairBatch

_WINDOW_ROWS = 64
_VERSION = 1  # of the saved state, the order and the packing


def batches_of(corpus: Corpus, config: DataConfig, tokenizer: Tokenizer) -> DataIterator[Any]:
    """Batches of an open corpus; closing the batches closes the corpus.

    Args:
      corpus: its records are cut to at most the sequence_length of `config`.
      config: the corpus' files, the order, both sizes.
      tokenizer: the one that the corpus uses.
    """

    size, length = config.batch_size, config.sequence_length
    assert size is not None, "it was chosen before"
    assert length is not None, "it was chosen before"

    def make_packed(records: Sequence[tuple[TokenSequence, ...]]) -> list[PackedRow]:
        sequences = [sequence for record in records for sequence in record]
        return pack(sequences, length, config.max_segments)

    def make_pairs(records: Sequence[tuple[TokenSequence, ...]]) -> list[PackedRow]:
        return [record for record in records if record]

    if config.epochs != 1:
        corpus.expect_rereading()
    fingerprint = _fingerprint(corpus, config, tokenizer)
    if corpus.has_pairs:
        return DataIterator(corpus, config, (size, length), fingerprint, make_pairs, collate_pairs)
    return DataIterator(corpus, config, (size, length), fingerprint, make_packed, collate)


class Remaining(NamedTuple):
    """The batches, rows and tokens that the data still have, over all epochs."""

    num_rows: int
    num_tokens: int
    num_batches: int


class DataIterator(Generic[BatchT]):
    """Final. Ends after `config.epochs`; the last batch is filled up with rows of padding."""

    def __init__(
        self,
        corpus: Corpus,
        config: DataConfig,
        shape: tuple[int, int],
        fingerprint: str,
        make_rows: Callable[[Sequence[tuple[TokenSequence, ...]]], list[PackedRow]],
        make_batch: Callable[[Sequence[PackedRow], int, int], BatchT],
    ) -> None:
        self._corpus = corpus
        self._config = config
        self._batch_size, self._length = shape
        self._fingerprint = fingerprint
        self._make_rows = make_rows
        self._make_batch = make_batch
        self._order: tuple[int, np.ndarray] | None = None  # an epoch, and the order of its records
        # The rows of the window, and where the next window starts.
        self._window: tuple[list[PackedRow], int] | None = None
        self._epoch = self._start = self._row = 0

    def __iter__(self) -> DataIterator[BatchT]:
        return self

    def __next__(self) -> BatchT:
        rows: list[PackedRow] = []
        while len(rows) < self._batch_size and (row := self._next_row()) is not None:
            rows.append(row)
        if not rows:
            raise StopIteration
        return self._make_batch(rows, self._batch_size, self._length)

    @property
    def epoch(self) -> int:
        """The number of epochs whose batches were all returned."""
        return self._epoch

    def state(self) -> dict[str, Any]:
        """The position in the data as a small JSON object, for `restore`."""
        return {
            "version": _VERSION,
            "data": self._fingerprint,
            "epoch": self._epoch,
            "start": self._start,
            "row": self._row,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a saved position: the next batches are those that followed it.

        Raises:
          ValueError: the state was saved for other data, another order or another row size.
        """
        place: list[Any] = [state.get(name) for name in ("epoch", "start", "row")]
        is_place = all(isinstance(number, int) and number >= 0 for number in place)
        if state.get("version") != _VERSION or not is_place:
            raise ValueError(
                f"{dict(state)} is no place in data that this version saved: begin the data anew"
            )
        if state.get("data") != self._fingerprint:
            raise ValueError(
                "the place was saved for other data: the files, the model's tokenizer or the "
                "settings (seed, shuffle, sequence_length, ...) have changed since; put them back, "
                "or begin anew"
            )
        self._epoch, self._start, self._row = place
        self._window = None

    def remaining(self) -> Remaining | None:
        """Counts what there is from here to the end; None if there is no end.

        Tokenizes all records, which may take a while; reading them afterwards is fast.
        """
        if self._config.epochs is None:
            return None
        self._corpus.expect_rereading()
        if (
            self._corpus.has_long_texts
        ):  # in the files' order, so that each text is read once for all its pieces
            for index in range(len(self._corpus)):
                self._corpus.sequences(index)
        ahead = copy.copy(self)
        ahead.restore(self.state())
        num_rows = num_tokens = 0
        while (row := ahead._next_row()) is not None:
            num_rows += 1
            num_tokens += sum(sequence.num_inputs for sequence in row)
        return Remaining(num_rows, num_tokens, -(-num_rows // self._batch_size))

    @property
    def config(self) -> DataConfig:
        """The configuration, with the sizes that were chosen."""
        return self._config

    @property
    def file_digests(self) -> list[str]:
        """The digest of the contents of each file of config.files."""
        return self._corpus.file_digests

    def report(self) -> CorpusReport:
        """What became of the records that were read so far."""
        return self._corpus.report()

    def close(self) -> None:
        """Ends the chat template's process and frees the kept tokens."""
        self._corpus.close()

    def _next_row(self) -> PackedRow | None:
        while True:
            if self._config.epochs is not None and self._epoch >= self._config.epochs:
                return None  # a restored position may be beyond the end, if `epochs` is now lower
            if self._window is None:
                self._window = self._read_window()
            rows, end = self._window
            if self._row < len(rows):
                self._row += 1
                return rows[self._row - 1]
            self._window = None
            self._row, self._start = 0, end
            if end == len(self._corpus):
                self._epoch, self._start = self._epoch + 1, 0

    def _read_window(self) -> tuple[list[PackedRow], int]:
        """Packs records from `_start` on until the window is full or the epoch ends."""
        if self._order is None or self._order[0] != self._epoch:
            self._order = (self._epoch, self._shuffled(self._epoch))
        order = self._order[1]
        wanted = _WINDOW_ROWS * self._length
        end = self._start
        records = []
        while wanted > 0 and end < len(order):
            record = self._corpus.sequences(int(order[end]))
            records.append(record)
            wanted -= sum(sequence.num_inputs for sequence in record)
            end += 1
        if self._corpus.has_long_texts:  # so that rows of one text are not neighbours
            apart = [(sequence,) for record in records for sequence in record]
            records = [apart[i] for i in self._permutation(len(apart), self._epoch, window=end)]
        return self._make_rows(records), end

    def _shuffled(self, epoch: int) -> np.ndarray:
        count = len(self._corpus)
        return self._permutation(count, epoch) if self._config.shuffle else np.arange(count)

    def _permutation(self, count: int, epoch: int, window: int = 0) -> np.ndarray:
        """A permutation of `count` items, determined by the seed, the epoch and the window."""
        # NumPy guarantees a bit generator's raw stream; Generator.permutation may change.
        key = np.array([self._config.seed, epoch], np.uint64)
        counter = np.array([0, window, 0, 0], np.uint64)  # streams never overlap
        stream = np.random.Philox(key=key, counter=counter)
        return np.argsort(stream.random_raw(count), kind="stable")


def _fingerprint(corpus: Corpus, config: DataConfig, tokenizer: Tokenizer) -> str:
    """A digest of everything that the rows and their order depend on."""
    settings = (
        config.sequence_length, config.format, config.seed, config.shuffle, config.on_bad_record,
        config.on_long, config.overlap, config.max_segments, config.max_record_bytes,
        tokenizer.vocab_size, tokenizer.eos_token_ids, tokenizer.chat_template, len(corpus),
        *(("pieces",) if corpus.has_long_texts else ()),  # pieces were added after version 1
    )  # fmt: skip
    return hashlib.blake2b(corpus.digest + repr(settings).encode(), digest_size=16).hexdigest()

"""All records of a run: checked when they are opened, tokenized when they are needed.

Deliberately does not know: the order of records, batches.
"""

from __future__ import annotations

import functools
import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from flaxen.data.config import DataConfig
from flaxen.data.encode import Encoder, TokenSequence, cut
from flaxen.data.lines import RecordSource
from flaxen.data.pieces import RecentPieces, split_text
from flaxen.data.records import Pair, Record, Text
from flaxen.data.sources import open_source
from flaxen.data.stopping import ShouldStop, check_stop, never
from flaxen.data.token_store import TokenStore

_NUM_NAMED = 5  # bad records that an error or report names


@dataclass(frozen=True, kw_only=True)
class CorpusReport:
    """How many of the records read so far were good, bad or cut."""

    num_records: int  # good and bad ones
    num_bad: int
    num_truncated: int
    bad: tuple[str, ...]  # the first of the bad ones, each "FILE:LINE: what is wrong"


class Corpus:
    """The records of several files. Final.

    Args:
      config: which files, and how long and bad records are treated; it has a sequence_length.
      encoder: the model's encoder.
      sources: the records, if they are not in config.files; one source for each of these.
      pairs: True accepts only preference pairs; False accepts all other records.
      store: keeps the tokenized records; None makes a TokenStore with its defaults.
      should_stop: asked before each record, now and whenever records are read.

    Raises:
      ValueError: a record is bad and bad ones are not allowed, a file is invalid, or no record is
          good.
      OSError: a file can't be read.
      StoppedError: should_stop returned True.
    """

    def __init__(
        self,
        config: DataConfig,
        encoder: Encoder,
        *,
        pairs: bool,
        sources: Sequence[RecordSource] | None = None,
        store: TokenStore | None = None,
        should_stop: ShouldStop = never,
    ) -> None:
        assert config.sequence_length is not None, "it was chosen before"
        self._config, self._length = config, config.sequence_length
        self._encoder = encoder
        self._pairs = pairs
        self._sources: Sequence[RecordSource] = sources or [
            open_source(file, config.max_record_bytes) for file in config.files
        ]
        # For each record, or each piece of a long one: the index of the source, of the record in
        # the source, and of the piece in the record.
        self._source_of, self._index_of, self._piece_of = array("q"), array("q"), array("q")
        self._num_good = 0  # good records, as counted at opening
        self._has_long_texts = False
        self._recent = RecentPieces()
        self._bad: dict[tuple[int, int], str] = {}  # (source, line) -> what is wrong
        self._unusable: set[int] = set()  # records found bad only when tokenized
        self._truncated: set[int] = set()
        self._store = store or TokenStore()
        self._is_read_again = config.epochs != 1
        self._should_stop = should_stop
        for number, source in enumerate(self._sources):
            self._bad |= {(number, line): message for line, message in source.errors}
            for index in range(len(source)):
                check_stop(self._should_stop)
                try:
                    record = source.record(index, config.format)
                    check_kind(record, pairs=pairs)
                except ValueError as error:
                    self._bad[number, source.line(index)] = str(error)
                else:
                    self._add(number, index, record)
        self._num_records = self._num_good + len(self._bad)
        if self._bad and config.on_bad_record == "fail":
            raise ValueError(
                f"{len(self._bad)} of {self._num_records} records can't be used: "
                f"{'; '.join(self._named_bad())}. Correct them, or skip bad records"
            )
        if not len(self):
            raise ValueError(self._no_record())

    def __len__(self) -> int:
        """The number of records; each piece of a long, shuffled text counts as one."""
        return len(self._index_of)

    @property
    def has_long_texts(self) -> bool:
        """Whether a shuffled text may be longer than a row."""
        return self._has_long_texts

    @property
    def has_pairs(self) -> bool:
        """Whether the records are preference pairs."""
        return self._pairs

    @property
    def digest(self) -> bytes:
        """The digest of the contents of all files."""
        return hashlib.blake2b(b"".join(source.digest for source in self._sources)).digest()

    @property
    def file_digests(self) -> list[str]:
        """The digest of the contents of each file."""
        return [source.digest.hex() for source in self._sources]

    def report(self) -> CorpusReport:
        """What became of the records so far."""
        return CorpusReport(
            num_records=self._num_records,
            num_bad=len(self._bad),
            num_truncated=len(self._truncated),
            bad=tuple(self._named_bad()),
        )

    def sequences(self, index: int) -> tuple[TokenSequence, ...]:
        """The sequences of a record or piece, each at most one row long; () for a bad record.

        Args:
          index: from 0 to len(self) - 1.

        Raises:
          ValueError: the record can't be tokenized, and bad records are not allowed.
          StoppedError: should_stop returned True.
        """
        check_stop(self._should_stop)
        if (kept := self._store.get(index)) is not None:
            return kept
        source = self._sources[self._source_of[index]]
        place = (self._source_of[index], self._index_of[index])
        pieces = self._recent.get(place, functools.partial(self._read_pieces, *place))
        try:
            sequences = self._cut(index, pieces[self._piece_of[index]])
        except ValueError as error:
            line = source.line(self._index_of[index])
            if self._config.on_bad_record == "fail":
                raise ValueError(f"{source.path}:{line}: {error}") from error
            self._bad[self._source_of[index], line] = str(error)
            self._unusable.add(index)
            if len(self._unusable) == len(self):
                raise ValueError(self._no_record()) from error
            sequences = ()
        self._store.put(index, sequences, spill=self._is_read_again)
        return sequences

    def lengths(self) -> list[int]:
        """The tokens of each sequence; of a pair those of the longer answer. Tokenizes all records.

        Raises:
          ValueError: as in `sequences`.
          StoppedError: should_stop returned True.
        """
        self.expect_rereading()
        found = []
        for index in range(len(self)):
            sizes = [sequence.num_inputs for sequence in self.sequences(index)]
            found += [max(sizes)] if self._pairs and sizes else sizes
        return found

    def expect_rereading(self) -> None:
        """Announces that records will be read again, so that all tokenized records are kept."""
        self._is_read_again = True

    def close(self) -> None:
        """Closes the encoder's processes and frees the tokens."""
        self._encoder.close()
        self._store.close()

    def _add(self, source: int, index: int, record: Record) -> None:
        self._num_good += 1
        if self._is_shuffled_text(record) and len(record.text) > self._length:
            self._has_long_texts = True
        for piece in range(len(self._split(record))):
            self._source_of.append(source)
            self._index_of.append(index)
            self._piece_of.append(piece)

    def _read_pieces(self, source: int, index: int) -> Sequence[Record]:
        return self._split(self._sources[source].record(index, self._config.format))

    def _split(self, record: Record) -> Sequence[Record]:
        """The pieces of a record, or the record alone if it is not split."""
        if self._is_shuffled_text(record):
            return split_text(record, self._length)
        return [record]

    def _is_shuffled_text(self, record: Record) -> TypeGuard[Text]:
        return self._config.shuffle and isinstance(record, Text) and self._splits(record)

    def _splits(self, record: Record) -> bool:
        on_long = self._config.on_long
        splits = on_long == "split" or (on_long == "auto" and isinstance(record, Text))
        return splits and not self._pairs  # pieces of the two answers would not correspond

    def _cut(self, index: int, record: Record) -> tuple[TokenSequence, ...]:
        whole = self._encoder.encode(record)
        splits = self._splits(record)
        pieces: list[TokenSequence] = []
        for sequence in whole:
            some = cut(sequence, self._length, splits=splits, overlap=self._config.overlap)
            if not any(piece.weights[1:].any() for piece in some):
                raise ValueError(
                    f"nothing to learn is left of its {len(sequence.tokens)} tokens when they are "
                    f"cut to the sequence_length of {self._length}: raise it, or "
                    "shorten what comes before the answer"
                )
            pieces += some
        if not splits and any(seq.num_inputs > self._length for seq in whole):
            self._truncated.add(index)
        return tuple(pieces)

    def _named_bad(self) -> list[str]:
        some = sorted(self._bad.items())[:_NUM_NAMED]
        return [f"{self._sources[number].path}:{line}: {text}" for (number, line), text in some]

    def _no_record(self) -> str:
        files = ", ".join(str(source.path) for source in self._sources)
        bad = f"all {len(self._bad)} are bad: {'; '.join(self._named_bad())}"
        return f"{files} has no record to use: {bad if self._bad else 'it is empty'}"


def check_kind(record: Record, *, pairs: bool) -> None:
    """Refuses preference pairs in supervised training, and all other records in DPO.

    Raises:
      ValueError: the record is a pair and `pairs` is False, or the other way round.
    """
    if isinstance(record, Pair) and not pairs:
        raise ValueError("the record is a preference pair, which only DPO learns from")
    if not isinstance(record, Pair) and pairs:
        raise ValueError(
            "the record is no preference pair, and DPO learns from nothing else: it must have the "
            "keys of OpenAI's (input, preferred_output, non_preferred_output) or prompt, chosen "
            "and rejected"
        )

"""The draft tokens of sequences for their next step: who gets some, and who is waited for.

Deliberately does not know: how drafts are made or verified.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Ids
from dataclasses import dataclass

from flaxen.engine.speculative.drafter import Drafter, check_proposal
from flaxen.engine.speculative.payoff import Acceptance, Offer, Payoff
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.scheduler import Scheduler
from flaxen.scheduling.sequence import Sequence

_LOG = logging.getLogger("flaxen.engine")
_FIRST_RATE, _FIRST_RATE_OF_PREDICTED = 0.5, 0.8
_HOPE = 0.8  # of a draft model; what one that only reads would have said is checked all along
# The weight of a draft token in the rate of its sequence, of a reader and of a draft model, whose
# rate depends on the two models more than on the sequence, and in the mean of all sequences.
_WEIGHT, _WEIGHT_OF_MODEL, _WEIGHT_IN_MEAN = 0.1, 0.05, 0.02


@dataclass(slots=True)
class _Watched:
    """A sequence's record: how likely its drafts are right, and what the drafter foresaw."""

    acceptance: Acceptance
    mean: Acceptance  # of all sequences like it
    foreseen: int | None = None  # its next token, as the drafter said without being verified
    num_known: int = 0  # its tokens when that was said


class Drafts:
    """Asks the drafter, and keeps its proposals until a step is planned with them.

    Args:
      drafter: None proposes nothing.
      config: the engine's sizes.
      vocab_size: the model's vocabulary size.
      payoff: decides whether drafts pay.
      clock: monotonic seconds.

    Raises:
      ValueError: there is a drafter, but num_spec_tokens is 0.
    """

    def __init__(
        self,
        drafter: Drafter | None,
        config: EngineConfig,
        vocab_size: int,
        payoff: Payoff,
        clock: Callable[[], float],
    ) -> None:
        if drafter is not None and config.num_spec_tokens == 0:
            raise ValueError(
                "a drafter was given, but num_spec_tokens is 0: set it to at least 1, or give no "
                "drafter"
            )
        self.counts: dict[Sequence, int] = {}  # the number of draft tokens of each sequence
        # Whether the next step is planned only when the tokens of the one in flight have come:
        # then it has drafts, or its drafts depend on them.
        self.holds = False
        self.payoff = payoff
        self.proposing_s = 0.0  # what a draft model took for the last proposals
        self._had_drafts = False
        self._drafter = drafter
        self._config, self._vocab_size, self._clock = config, vocab_size, clock
        self._watched: dict[Sequence, _Watched] = {}
        only_reads = drafter is None or drafter.only_reads
        self._hope = 0.0 if only_reads else _HOPE
        self._weight = _WEIGHT if only_reads else _WEIGHT_OF_MODEL
        # The rates of all sequences: of those without a prediction, and of those with one.
        self._mean = Acceptance(self._hope or _FIRST_RATE, _WEIGHT_IN_MEAN)
        self._mean_of_predicted = Acceptance(_FIRST_RATE_OF_PREDICTED, _WEIGHT_IN_MEAN)

    @property
    def is_on(self) -> bool:
        """Whether there is a drafter."""
        return self._drafter is not None

    def propose(self, scheduler: Scheduler, *, is_ahead: bool) -> None:
        """Proposes drafts for the next step to plan, or decides to wait for it.

        Args:
          scheduler: knows the running sequences. All tokens of fetched steps have been appended.
          is_ahead: whether a step is in flight, whose tokens come before any drafts.
        """
        self.holds, self.proposing_s = False, 0.0
        running = scheduler.running()
        spare = self._config.max_sampled - len(running) - scheduler.num_admissible
        if self._drafter is None or spare <= 0:
            return
        asked = {s: most for s in running if (most := self._most(s, is_ahead)) > 0}
        if not asked:
            return
        if self._drafter.only_reads:
            proposed = self._ask(self._drafter, asked)
            if not self.is_on:  # it has just failed
                return
            for sequence in asked:
                self._look_back(sequence, proposed.get(sequence, ()))
            offered = {s: len(ids) - is_ahead for s, ids in proposed.items()}
            lengths = self._choose(offered, len(running), spare, num_before=int(is_ahead))
        else:
            lengths = self._choose(asked, len(running), spare)
            started_s = self._clock()
            proposed = self._ask(self._drafter, lengths) if lengths and not is_ahead else {}
            self.proposing_s = self._clock() - started_s
            if proposed and self._drafter.token_s:
                self.payoff.observe_drafting(self._drafter.token_s)
        if is_ahead:
            self.holds = bool(lengths)
            return
        for sequence, length in lengths.items():
            drafted = proposed.get(sequence, ())[:length]
            if sequence.grammar is not None:
                drafted = sequence.grammar.allowed_drafts(drafted, self._vocab_size)
            if drafted:
                sequence.draft_token_ids = tuple(drafted)
                self.counts[sequence] = len(drafted)
        # Where drafts have just been verified, the next ones are worth one more wait.
        had_drafts, self._had_drafts = self._had_drafts, bool(self.counts)
        self.holds = self._had_drafts or had_drafts

    def verified(self, sequence: Sequence, num_drafts: int, num_accepted: int) -> None:
        """A step has verified drafts of a sequence."""
        if num_drafts and self._drafter is not None:
            is_wrong = num_accepted < num_drafts
            self._observe(self._watch(sequence), num_accepted, then_wrong=is_wrong)
            self._drafter.verified(sequence, num_drafts, num_accepted)

    def drop(self, sequences: Iterable[Sequence]) -> None:
        """Removes the drafts of these sequences."""
        if self.counts:
            for sequence in sequences:
                self.counts.pop(sequence, None)

    def end(self, sequence: Sequence) -> None:
        """Forgets a sequence that has ended."""
        self.drop([sequence])
        self._watched.pop(sequence, None)
        if self._drafter is not None:
            self._drafter.end(sequence)

    def warm_up(self) -> bool:
        """Compiles a program of the drafter's; returns False if none was left."""
        drafter = self._drafter  # another thread calls this, and the drafter may fail meanwhile
        return drafter is not None and drafter.warm_up()

    def sleep(self) -> None:
        """Frees what the drafter has on a device, until `wake`."""
        if self._drafter is not None:
            self._drafter.sleep()

    def wake(self) -> None:
        """Undoes `sleep`."""
        if self._drafter is not None:
            self._drafter.wake()

    def _most(self, sequence: Sequence, is_ahead: bool) -> int:
        """The most tokens to propose for a sequence; 0 if it needs more than its next token."""
        in_flight = sequence.num_in_flight
        if sequence.num_tokens - sequence.num_computed_tokens != 1 or in_flight != is_ahead:
            return 0
        if len(sequence.tokens) == sequence.num_prompt_tokens or sequence.pooling is not None:
            return 0
        room = sequence.max_num_tokens - sequence.num_tokens - 1
        return min(room, self._config.num_spec_tokens) + in_flight if room > 0 else 0

    def _watch(self, sequence: Sequence) -> _Watched:
        watched = self._watched.get(sequence)
        if watched is None:
            mean = self._mean_of_predicted if sequence.prediction else self._mean
            acceptance = Acceptance(mean.rate, self._weight)
            watched = self._watched[sequence] = _Watched(acceptance, mean)
        return watched

    def _observe(self, watched: _Watched, num_right: int, *, then_wrong: bool) -> None:
        for acceptance in (watched.acceptance, watched.mean):
            acceptance.observe(num_right, then_wrong=then_wrong)
        watched.foreseen = None

    def _look_back(self, sequence: Sequence, proposed: Ids[int]) -> None:
        """Checks what the drafter foresaw, and keeps what it foresees now."""
        watched, num_known = self._watch(sequence), len(sequence.tokens)
        if watched.foreseen is not None and num_known > watched.num_known:
            is_right = sequence.tokens[watched.num_known] == watched.foreseen
            self._observe(watched, int(is_right), then_wrong=not is_right)
        watched.foreseen, watched.num_known = (proposed[0] if proposed else None), num_known

    def _choose(
        self,
        most: Mapping[Sequence, int],
        num_running: int,
        spare: int,
        *,
        num_before: int = 0,
    ) -> dict[Sequence, int]:
        """How many drafts each sequence gets, without those that get none."""
        offers = [
            Offer(self._watch(s).acceptance.rate, n, num_before, self._hope)
            for s, n in most.items()
        ]
        numbers = self.payoff.choose(offers, num_running, spare)
        return {s: number for s, number in zip(most, numbers, strict=True) if number > 0}

    def _ask(self, drafter: Drafter, wanted: Mapping[Sequence, int]) -> dict[Sequence, Ids[int]]:
        """The checked proposals, without empty ones. What a grammar forces needs no drafter."""
        forced = {s: ids for s, n in wanted.items() if (ids := self._forced(s, n)) is not None}
        try:
            proposed = drafter.propose({s: n for s, n in wanted.items() if s not in forced})
            checked = {
                sequence: check_proposal(ids, wanted[sequence], self._vocab_size)
                for sequence, ids in proposed.items()
            }
        except Exception:  # whatever it is, no output depends on it
            _LOG.exception("the drafter failed: all sequences go on without drafts")
            self._drafter = None
            drafter.free()
            return {}
        return {sequence: ids for sequence, ids in (forced | checked).items() if ids}

    def _forced(self, sequence: Sequence, most: int) -> Ids[int] | None:
        """What a sequence's grammar forces; empty if it fails at that; None: ask the drafter."""
        if sequence.grammar is None:
            return None
        try:
            ids = sequence.grammar.forced_tokens()[:most]
            return check_proposal(ids, most, self._vocab_size) or None
        except Exception:  # whatever it is, it is this grammar's own, and the sequence may find out
            return ()

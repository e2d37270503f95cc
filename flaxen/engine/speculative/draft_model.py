"""The drafter `draft_model`: a second, faster model says how sequences go on.

Each sequence has a twin: a sequence of the draft model's own scheduler, with pages and a row of its
own, the same tokens and the same seed. A sample depends on its logits, its position and the seed
(decision 0042), so where the two models agree about the distribution the twin draws the very token
that the sequence will draw, at any temperature (decision 0362). Twins run without adapters,
grammars and log-probabilities.

Deliberately does not know: JAX, when drafts pay.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from collections.abc import Sequence as Ids
from dataclasses import replace
from typing import Any, final

from flaxen.engine.speculative.drafter import Drafter
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.executor import Executor
from flaxen.scheduling.plan import StepPlan
from flaxen.scheduling.scheduler import Scheduler
from flaxen.scheduling.sequence import Sequence


@final
class DraftModel(Drafter):
    """Runs the draft model's steps, for all sequences that are asked about at once.

    Args:
      config: the sizes of the draft model's engine.
      executor: runs its steps.
    """

    only_reads = False

    def __init__(self, config: EngineConfig, executor: Executor) -> None:
        self._config, self._executor = config, executor
        self._scheduler = Scheduler(config)
        self._twins: dict[Sequence, Sequence] = {}

    def propose(self, wanted: Mapping[Sequence, int]) -> Mapping[Sequence, Ids[int]]:
        started_s = time.perf_counter()
        twins: dict[Sequence, Sequence] = {}  # from a twin to its sequence
        for sequence, most in wanted.items():
            room = self._config.max_model_len - len(sequence.tokens)
            if room > 0 and not sequence.prompt_embeds:
                twin = self._caught_up(sequence)
                twin.max_num_tokens = len(twin.tokens) + min(most, room)
                twins[twin] = sequence
        drafted, num_steps = self._run(max(wanted.values(), default=0))
        self.token_s = (time.perf_counter() - started_s) / num_steps if num_steps else 0.0
        return {twins[twin]: ids for twin, ids in drafted.items() if twin in twins}

    def end(self, sequence: Sequence) -> None:
        twin = self._twins.pop(sequence, None)
        if twin is not None:
            self._scheduler.end(twin)

    def warm_up(self) -> bool:
        return self._executor.warm_up()

    def sleep(self) -> None:
        self._scheduler.reset()
        self._executor.sleep(keeps_weights=True)  # nobody would bring them back

    def wake(self) -> None:
        self._executor.wake_weights()
        self._executor.reset()

    def free(self) -> None:
        with contextlib.suppress(Exception):  # of the step that failed
            self._executor.sleep(keeps_weights=False)

    def _caught_up(self, sequence: Sequence) -> Sequence:
        """A sequence's twin, which forgets its drafts and learns what came in their place."""
        twin = self._twins.get(sequence)
        if twin is None:
            twin = self._twins[sequence] = _twin(sequence)
            self._scheduler.add(twin)
            return twin
        known, num_known = sequence.tokens, len(twin.tokens)
        drafts = twin.draft_token_ids
        num_right = 0
        for draft, token_id in zip(drafts, known[num_known:], strict=False):
            if draft != token_id:
                break
            num_right += 1
        twin.tokens.extend(known[num_known:])
        twin.draft_token_ids, twin.num_in_flight = (), 0
        if twin.row is not None:
            certain = min(twin.num_computed_tokens, num_known + num_right, len(known) - 1)
            twin.num_rejectable = twin.num_computed_tokens - certain
            self._scheduler.pools.roll_back(twin, certain)
            twin.num_computed_tokens, twin.num_rejectable = certain, 0
            self._executor.load(twin, twin.row)
        return twin

    def _run(self, most: int) -> tuple[dict[Sequence, list[int]], int]:
        """Starts up to so many steps, and then waits for them.

        Returns:
          What was sampled for each twin, and the number of steps; 0 if they computed a prompt.
        """
        started: list[tuple[StepPlan, Any]] = []
        is_cut = has_prompt = False
        while len(started) < most and not is_cut:
            plan = self._scheduler.schedule()
            if not plan.items:
                break
            # The rest of a prompt is left for the next time, so that nobody waits for it.
            is_cut = any(not item.samples for item in plan.items)
            for item in plan.items:
                if item.load_row:
                    has_prompt = True
                    self._executor.load(item.sequence, item.row)
            started.append((plan, self._executor.dispatch(plan)))
        drafted: dict[Sequence, list[int]] = {}
        for plan, handle in started:
            result = self._executor.fetch(plan, handle)
            for item, token_ids in zip(plan.items, result.tokens, strict=True):
                drafted.setdefault(item.sequence, []).extend(token_ids)
        for twin, ids in drafted.items():
            twin.draft_token_ids += tuple(ids)
        return drafted, 0 if has_prompt or is_cut else len(started)


def _twin(sequence: Sequence) -> Sequence:
    sampling = replace(
        sequence.sampling, n=1, logprobs=None, prompt_logprobs=None, logprob_token_ids=()
    )
    return Sequence(
        request_id=sequence.request_id,
        index=sequence.index,
        sampling=sampling,
        tokens=list(sequence.tokens),
        num_prompt_tokens=sequence.num_prompt_tokens,
        cache_salt=sequence.cache_salt,
        seed=sequence.seed,
        row_settings=sequence.row_settings,
    )

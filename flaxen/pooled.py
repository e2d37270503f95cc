"""Embeddings, labels and scores from Python: what `LLM.embed`, `.classify` and `.score` do.

Deliberately does not know how an engine works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from flaxen.outputs import (
    ClassificationOutput,
    EmbeddingOutput,
    PooledRequestOutput,
    ScoringOutput,
)
from flaxen.pooling.answers import embedding, probabilities, similarity
from flaxen.pooling.inputs import input_ids, pair_ids
from flaxen.pooling.params import PoolingParams, pooling_of
from flaxen.prompts import Prompt, as_prompts, given_prompt
from flaxen.protocol import Finish, ModelInfo, Request, TokenEvent
from flaxen.text.tokenizer import Tokenizer

Output = TypeVar("Output")


@dataclass(kw_only=True)
class PooledPrompt:
    """A request for the vector of one prompt, and its end."""

    request: Request
    finish: Finish | None = None

    @property
    def finished(self) -> bool:
        """Whether the request has ended."""
        return self.finish is not None

    def add(self, event: TokenEvent) -> None:
        """Adds an event of the request."""
        self.finish = event.finish

    @property
    def vector(self) -> tuple[float, ...]:
        """The pooled vector.

        Raises:
          RuntimeError: the request failed.
        """
        assert self.finish is not None
        if self.finish.pooled is None:
            reason = self.finish.error or self.finish.reason.value
            raise RuntimeError(f"{self.request.request_id} has no vector: {reason}")
        return self.finish.pooled

    def output(self, outputs: Output) -> PooledRequestOutput[Output]:
        """What the caller gets for the prompt, around the given outputs."""
        assert self.finish is not None
        return PooledRequestOutput(
            request_id=self.request.request_id,
            outputs=outputs,
            prompt_token_ids=self.request.prompt_token_ids,
            num_cached_tokens=self.finish.num_cached_tokens,
        )


# Runs requests to their ends, in order.
Run = Callable[[list[Request]], list[PooledPrompt]]


@dataclass(frozen=True, kw_only=True)
class PooledTasks:
    """The tasks of one model."""

    tokenizer: Tokenizer
    info: ModelInfo
    new_id: Callable[[], str]
    run: Run

    def embed(
        self, prompts: Prompt | Sequence[Prompt], params: PoolingParams
    ) -> list[PooledRequestOutput[EmbeddingOutput]]:
        """See flaxen.llm.LLM.embed."""
        pooling = params.check(self.info, "embed")
        found = self.run(self._requests(as_prompts(prompts), params))
        vectors = [embedding(each.vector, pooling, params) for each in found]
        return [
            each.output(EmbeddingOutput(embedding=vector.tolist()))
            for each, vector in zip(found, vectors, strict=True)
        ]

    def classify(
        self, prompts: Prompt | Sequence[Prompt], params: PoolingParams
    ) -> list[PooledRequestOutput[ClassificationOutput]]:
        """See flaxen.llm.LLM.classify."""
        pooling = params.check(self.info, "classify")
        return [
            each.output(
                ClassificationOutput(probs=probabilities(each.vector, pooling, params).tolist())
            )
            for each in self.run(self._requests(as_prompts(prompts), params))
        ]

    def score(
        self, data_1: str | Sequence[str], data_2: str | Sequence[str], params: PoolingParams
    ) -> list[PooledRequestOutput[ScoringOutput]]:
        """See flaxen.llm.LLM.score."""
        firsts, seconds = _pairs(data_1, data_2)
        pooling = pooling_of(self.info)
        params.check(self.info, pooling.task)
        if not pooling.scores_pairs:
            return self._similarities(firsts, seconds, params)
        requests = [
            self._request(pair_ids(self.tokenizer, self.info, pooling, pair, params))
            for pair in zip(firsts, seconds, strict=True)
        ]
        return [
            each.output(ScoringOutput(score=float(probabilities(each.vector, pooling, params)[0])))
            for each in self.run(requests)
        ]

    def _similarities(
        self, firsts: list[str], seconds: list[str], params: PoolingParams
    ) -> list[PooledRequestOutput[ScoringOutput]]:
        params.check(self.info, "embed")  # several labels give no score
        texts: list[Any] = list(dict.fromkeys([*firsts, *seconds]))
        found = dict(zip(texts, self.run(self._requests(texts, params)), strict=True))
        return [
            found[second].output(
                ScoringOutput(score=similarity(found[first].vector, found[second].vector))
            )
            for first, second in zip(firsts, seconds, strict=True)
        ]

    def _requests(self, prompts: Sequence[Prompt], params: PoolingParams) -> list[Request]:
        pooling = pooling_of(self.info)
        return [
            self._request(
                input_ids(self.tokenizer, self.info, pooling, given_prompt(prompt), params)
            )
            for prompt in prompts
        ]

    def _request(self, token_ids: list[int]) -> Request:
        return Request(
            request_id=self.new_id(),
            prompt_token_ids=tuple(token_ids),
            pooling=pooling_of(self.info).pooling,
        )


def _pairs(data_1: str | Sequence[str], data_2: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """One text against each of many, or many against as many.

    Raises:
      ValueError: the numbers do not match, or a text is none.
    """
    firsts, seconds = ([each] if isinstance(each, str) else list(each) for each in (data_1, data_2))
    for text in (*firsts, *seconds):
        if not isinstance(text, str):
            raise ValueError(f"a score is of texts, got a {type(text).__name__}")
    if len(firsts) == 1:
        firsts *= len(seconds)
    if len(firsts) != len(seconds) or not firsts:
        raise ValueError(
            f"{len(firsts)} texts came with {len(seconds)}: give one for all of the second, or as "
            "many as these"
        )
    return firsts, seconds

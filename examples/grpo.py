"""Reinforcement learning in one process: a model learns to answer in one word.

The reward can be checked: the right capital must be in the answer, and the fewer words there are
around it, the better. The engine samples with the arrays that the trainer trains, so
log-probabilities are the same to the bit in sampling and in training: `off policy` stays 0. Ends
with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from flaxen import LLM, SamplingParams
from flaxen.models.adapters import LoraConfig
from flaxen.outputs import RequestOutput
from flaxen.training.grpo import GrpoConfig, grpo
from flaxen.training.lora import initial_adapters, lora
from flaxen.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from flaxen.training.rollouts import RolloutMetrics, SampledCompletion, train_on_rollouts
from flaxen.training.state import TrainState
from flaxen.training.step import make_step, start

POLICY = "policy"  # the adapter's name in the engine
MAX_TOKENS = 24


class Question(NamedTuple):
    country: str
    capital: str


CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo",
    "Russia": "Moscow", "China": "Beijing", "England": "London", "Greece": "Athens",
    "Egypt": "Cairo", "Portugal": "Lisbon", "Austria": "Vienna", "Cuba": "Havana",
    "Ireland": "Dublin", "Poland": "Warsaw", "Hungary": "Budapest",
    # Never trained on:
    "Kenya": "Nairobi", "Peru": "Lima", "Norway": "Oslo", "Belgium": "Brussels",
    "Thailand": "Bangkok", "Sweden": "Stockholm", "Finland": "Helsinki", "Canada": "Ottawa",
}  # fmt: skip
QUESTIONS = [Question(*each) for each in CAPITALS.items()]
NUM_TRAINED = 16


def conversation(question: Question) -> list[dict[str, str]]:
    """The chat messages that ask a question.

    The earlier turn is an example of a short answer: without it all answers are whole sentences,
    and a group whose rewards are equal has no gradient.
    """
    return [
        {"role": "user", "content": "What is the capital of Brazil?"},
        {"role": "assistant", "content": "Brasília"},
        {"role": "user", "content": f"What is the capital of {question.country}?"},
    ]


def reward(question: Question, completion: SampledCompletion) -> float:
    """1 / (number of words) if the capital is among the words, and 0 otherwise."""
    if question.capital not in completion.text:
        return 0.0
    return 1 / len(completion.text.split())


def make_sample(
    llm: LLM, group_size: int
) -> Callable[[Sequence[Question], int], list[list[SampledCompletion]]]:
    """A function that samples with the parameters published last, at temperature 1, without top-k
    or top-p.
    """

    def sample(questions: Sequence[Question], number: int) -> list[list[SampledCompletion]]:
        params = [
            SamplingParams(
                n=group_size,
                temperature=1.0,
                max_tokens=MAX_TOKENS,
                logprobs=0,
                seed=1_000_000 * number + 1000 * index,
            )
            for index in range(len(questions))
        ]
        asked = [conversation(each) for each in questions]
        outputs = llm.chat(asked, params, adapter=POLICY)
        return [completions_of(output) for output in outputs]

    return sample


def completions_of(output: RequestOutput) -> list[SampledCompletion]:
    """The completions of one prompt.

    Raises:
      RuntimeError: one of them failed.
    """
    found = []
    for each in output.outputs:
        if each.error is not None or each.logprobs is None:
            raise RuntimeError(f"sampling failed: {each.error}")
        places = zip(each.token_ids, each.logprobs, strict=True)
        logprobs = [place[token_id].logprob for token_id, place in places]
        found.append(
            SampledCompletion(output.prompt_token_ids, each.token_ids, logprobs, each.text)
        )
    return found


def held_out(llm: LLM, adapter: str | None) -> tuple[float, str]:
    """The mean reward of greedy answers to the held-out questions, and one of the answers."""
    questions = QUESTIONS[NUM_TRAINED:]
    asked = [conversation(each) for each in questions]
    greedy = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, logprobs=0)
    outputs = llm.chat(asked, greedy, adapter=adapter)
    answers = [completions_of(output)[0] for output in outputs]
    rewards = [reward(*each) for each in zip(questions, answers, strict=True)]
    return sum(rewards) / len(rewards), answers[0].text


def batches(num_rounds: int, size: int, seed: int) -> Iterator[list[Question]]:
    """Questions of each round, drawn without repetition until all were asked."""
    rng = random.Random(seed)
    left: list[Question] = []
    for _ in range(num_rounds):
        if len(left) < size:
            left = QUESTIONS[:NUM_TRAINED]
            rng.shuffle(left)
        yield [left.pop() for _ in range(size)]


def train(llm: LLM, args: argparse.Namespace) -> list[RolloutMetrics]:
    """Trains an adapter, which the engine has under the name POLICY afterwards."""
    config = GrpoConfig(
        sequence_length=256,
        group_size=args.group_size,
        microbatch_rows=args.microbatch_rows,
        kl_beta=args.kl_beta,
    )
    adapter = LoraConfig(rank=8, alpha=16.0)
    step = make_step(
        lora(adapter),
        grpo(llm.model, config),
        make_optimizer(OptimizerConfig(max_grad_norm=1.0)),
        make_schedule(ScheduleConfig(name="constant", warmup_steps=2), args.rounds),
        (args.learning_rate,),
    )
    state = start(step, initial_adapters(llm.model, adapter, [args.seed]), seed=args.seed)
    scales = jnp.full(1, adapter.scale, jnp.float32)
    found: list[RolloutMetrics] = []

    def on_round(metrics: RolloutMetrics, state: TrainState) -> None:
        found.append(metrics)
        values = metrics.updates[0]
        print(
            f"round {len(found):3}  reward {metrics.reward:.3f}  "
            f"off policy {values['off_policy']:g}  grad norm {values['grad_norm']:.2f}  "
            f"{metrics.num_tokens} tokens sampled in {metrics.sample_seconds:.1f} s, "
            f"learned from in {metrics.update_seconds:.1f} s",
            flush=True,
        )

    train_on_rollouts(
        step,
        state,
        llm.params,
        config,
        batches(args.rounds, args.prompts, args.seed),
        sample=make_sample(llm, args.group_size),
        reward=reward,
        publish=lambda stack: llm.engine.set_adapter_stack((POLICY,), stack, scales),
        on_round=on_round,
    )
    return found


def report(args: argparse.Namespace, metrics: list[RolloutMetrics]) -> dict[str, Any]:
    """The figures of a run; per-round figures are lists."""
    return {
        "settings": vars(args),
        "rewards": [round(each.reward, 4) for each in metrics],
        "off_policy": [each.updates[0]["off_policy"] for each in metrics],
        "tokens_sampled": [each.num_tokens for each in metrics],
        "sample_seconds": [round(each.sample_seconds, 1) for each in metrics],
        "update_seconds": [round(each.update_seconds, 1) for each in metrics],
    }


def main() -> None:
    """Trains, and measures the held-out reward before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--prompts", type=int, default=4, help="of a round")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--microbatch-rows", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--kl-beta", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    began = time.perf_counter()
    llm = LLM(args.model, max_model_len=256, max_num_seqs=32)
    before, answer = held_out(llm, None)
    print(f"before: held-out reward {before:.3f}, as in {answer!r}", flush=True)
    metrics = train(llm, args)
    after, answer = held_out(llm, POLICY)
    print(f"after: held-out reward {after:.3f}, as in {answer!r}")
    figures = report(args, metrics)
    figures |= {"held_out_before": round(before, 4), "held_out_after": round(after, 4)}
    print(json.dumps({**figures, "seconds": round(time.perf_counter() - began, 1)}))


if __name__ == "__main__":
    main()

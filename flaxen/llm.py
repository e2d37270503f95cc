"""Generation from Python: `LLM` for batches, in the calling thread. Names are vLLM's.

Deliberately does not know: HTTP, argv, how an engine works.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxen.batch_run import run_batch
from flaxen.build import OnProgress, Parts, build
from flaxen.compile_cache import CompileCache, choose_compile_cache
from flaxen.definitions.definition import Definition
from flaxen.engine_args import EngineArgs
from flaxen.models.model import Model, Params
from flaxen.outputs import (
    ClassificationOutput,
    CompletionOutput,
    EmbeddingOutput,
    PooledRequestOutput,
    RequestOutput,
    ScoringOutput,
)
from flaxen.pooled import PooledPrompt, PooledTasks
from flaxen.pooling.params import PoolingParams
from flaxen.prompts import (
    Prompt,
    as_prompts,
    chat_prompt,
    for_each_prompt,
    make_request,
    model_template,
    prompt_text,
)
from flaxen.protocol import Request, SamplingParams
from flaxen.scheduling.config import LoraLimits
from flaxen.structured import GrammarCompiler
from flaxen.text.chat import ChatTemplate
from flaxen.text.tokenizer import Tokenizer
from flaxen.weights.adapters import peft
from flaxen.weights.adapters.adapter import Adapter
from flaxen.weights.adapters.base import highest_rank

__all__ = ["LLM", "CompletionOutput", "LoraLimits", "PoolingParams", "Prompt", "RequestOutput"]


class LLM:
    """A model for generation. Not safe for several threads at once; use AsyncLLM for that.

    Args:
      model: a short name, a directory, a .gguf file, or a repository of the hub (ORG/NAME, or
        ORG/NAME:Q4_K_M of GGUF files); or a definition.
      on_progress: called with (stage, done, total) while weights load and steps compile.
      compile_cache: directory of compiled programs, for the whole process. None: what JAX is set
          to, or else the directory of the `flaxen` commands, ~/.cache/flaxen; False: no change.
      lora: how many adapters can be loaded and run with the model; None for none but `adapter`.
      adapter: an adapter, or its directory in PEFT's format, for all prompts that name no other.
      **engine_args: the other fields of flaxen.engine_args.EngineArgs.

    Raises:
      ValueError: a bad argument, no such model, or a checkpoint that can't be served.
      FileNotFoundError: the checkpoint has no tokenizer.
      TypeError: an argument that EngineArgs does not have.
    """

    def __init__(
        self,
        model: str | Path | Definition,
        *,
        on_progress: OnProgress | None = None,
        compile_cache: CompileCache = None,
        lora: LoraLimits | None = None,
        adapter: Adapter | str | Path | None = None,
        **engine_args: Any,
    ) -> None:
        choose_compile_cache(compile_cache, os.environ)
        if adapter is not None and lora is None:
            lora = LoraLimits(max_loras=1, max_lora_rank=highest_rank(adapter))
        definition = model if isinstance(model, Definition) else None
        name = definition.name if definition is not None else str(model)
        args = EngineArgs(model=name, **engine_args)
        self._parts: Parts = build(args, on_progress, lora=lora, definition=definition)
        self.engine = self._parts.engine
        self.info = self._parts.info
        self._ids = itertools.count()
        self._grammars = GrammarCompiler(
            self.tokenizer, self.info.vocab_size, self.info.eos_token_ids
        )
        self._template: ChatTemplate | None = None  # made when it is first needed
        self._adapter: str | None = None  # the name of the adapter of prompts that name none
        if adapter is not None:
            self._adapter = "adapter"
            self.load_adapter(self._adapter, adapter)

    @property
    def model(self) -> Model:
        """The model, without its parameters."""
        return self._parts.model

    @property
    def params(self) -> Params:
        """The model's parameters: the arrays themselves, not copies.

        Never donate them: steps read packed weights by address, and JAX would not report an error.
        """
        return self._parts.params

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._parts.tokenizer

    def warm_up(self) -> None:
        """Compiles all of the step's programs now, as before a measurement (decision 0336)."""
        while self.engine.warm_up():
            pass

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's generation_config.json sets; dataclasses.replace changes fields."""
        return SamplingParams(**self.info.default_sampling)

    def load_adapter(
        self, name: str, adapter: Adapter | str | Path, *, load_inplace: bool = False
    ) -> None:
        """Loads an adapter under a name, for `generate`.

        Args:
          name: printable text.
          adapter: an adapter in memory, or a directory in PEFT's format.
          load_inplace: replace the weights of a name that is in use.

        Raises:
          ValueError: the adapter can't be read or served, or the name is in use.
        """
        if not isinstance(adapter, Adapter):
            adapter = peft.load_adapter(Path(os.path.expanduser(adapter)), self.model)
        self.engine.adapters.load(name, adapter, load_inplace=load_inplace)

    def unload_adapter(self, name: str) -> None:
        """Unloads an adapter. Raises ValueError if no adapter has this name."""
        self.engine.adapters.unload(name)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | Sequence[str | None] | None = None,
        use_tqdm: bool | Callable[[int, int], None] = False,
    ) -> list[RequestOutput]:
        """Continues each prompt.

        Args:
          prompts: one or several; a flat list of integers is one prompt's token ids.
          sampling_params: for all prompts, or one for each; None is get_default_sampling_params().
          adapter: the name of a loaded adapter, for all prompts or one for each. None is the
              adapter that the LLM was made with, or else the base model; in a list it is always
              the base model.
          use_tqdm: True shows a progress bar; a callable gets (prompts done, prompts in all).

        Returns:
          One output for each prompt, in order. A prompt that failed has the finish reason "error"
          and a message; the others are not affected.

        Raises:
          ValueError: a prompt or its parameters are invalid, or a structure can't be done; no
            prompt was started then.
        """
        listed = as_prompts(prompts)
        default = self.get_default_sampling_params() if sampling_params is None else sampling_params
        samplings = for_each_prompt(default, len(listed), "sampling params")
        adapters = for_each_prompt(adapter or self._adapter, len(listed), "adapters")
        outputs: dict[str, RequestOutput] = {}
        checked = []
        for prompt, sampling, name in zip(listed, samplings, adapters, strict=True):
            request_id = f"llm-{next(self._ids)}"
            structure = sampling.structured_outputs
            make_grammar = None if structure is None else self._grammars.compile(structure)
            request = make_request(self.tokenizer, prompt, sampling, request_id, name, make_grammar)
            checked.append(self.engine.check(request))
            outputs[request.request_id] = RequestOutput.of(
                request, prompt_text(prompt), self.tokenizer
            )
        return run_batch(self.engine, checked, outputs, use_tqdm)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        add_generation_prompt: bool = True,
        adapter: str | Sequence[str | None] | None = None,
        use_tqdm: bool | Callable[[int, int], None] = False,
        **template_variables: Any,
    ) -> list[RequestOutput]:
        """Answers one or several conversations, using the model's chat template.

        Further arguments are the template's variables; `tools` and `chat_template_kwargs` are
        vLLM's.

        Raises:
          ValueError: as in `generate`; or the model has no chat template, or the template refuses
              the messages.
        """
        is_one = not messages or isinstance(messages[0], Mapping)
        conversations: Any = [messages] if is_one else messages
        template = self._template = self._template or model_template(self.tokenizer)
        prompts = [
            chat_prompt(
                self.tokenizer,
                template,
                conversation,
                add_generation_prompt=add_generation_prompt,
                **template_variables,
            )
            for conversation in conversations
        ]
        return self.generate(prompts, sampling_params, adapter=adapter, use_tqdm=use_tqdm)

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        pooling_params: PoolingParams | None = None,
        use_tqdm: bool | Callable[[int, int], None] = False,
    ) -> list[PooledRequestOutput[EmbeddingOutput]]:
        """The embedding of each prompt.

        Args:
          prompts: as in `generate`; a text gets the model's default prompt, if it has one.
          pooling_params: dimensions, normalize, truncate_prompt_tokens, prompt_name; None is what
              the model's files say.
          use_tqdm: as in `generate`.

        Raises:
          ValueError: the model gives no embeddings, or a prompt or option is invalid.
          RuntimeError: a prompt failed.
        """
        return self._pooled(use_tqdm).embed(prompts, pooling_params or PoolingParams())

    def classify(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        pooling_params: PoolingParams | None = None,
        use_tqdm: bool | Callable[[int, int], None] = False,
    ) -> list[PooledRequestOutput[ClassificationOutput]]:
        """The score of each label of a classification or reward model, for each prompt.

        Raises:
          ValueError: the model has no labels, or a prompt or option is invalid.
          RuntimeError: a prompt failed.
        """
        return self._pooled(use_tqdm).classify(prompts, pooling_params or PoolingParams())

    def score(
        self,
        data_1: str | Sequence[str],
        data_2: str | Sequence[str],
        *,
        pooling_params: PoolingParams | None = None,
        use_tqdm: bool | Callable[[int, int], None] = False,
    ) -> list[PooledRequestOutput[ScoringOutput]]:
        """How well texts go together: by a cross-encoder, which reads both at once, or as the
        cosine of two embeddings.

        Args:
          data_1: one text, for all of data_2, or as many as these.
          data_2: one or several texts.
          pooling_params: as in `embed`.
          use_tqdm: as in `generate`.

        Raises:
          ValueError: the model gives no scores, or a text or option is invalid.
          RuntimeError: a pair failed.
        """
        return self._pooled(use_tqdm).score(data_1, data_2, pooling_params or PoolingParams())

    def _pooled(self, use_tqdm: bool | Callable[[int, int], None]) -> PooledTasks:
        def run(requests: list[Request]) -> list[PooledPrompt]:
            prompts = {each.request_id: PooledPrompt(request=each) for each in requests}
            checked = [self.engine.check(each) for each in requests]
            return run_batch(self.engine, checked, prompts, use_tqdm)

        return PooledTasks(
            tokenizer=self.tokenizer,
            info=self.info,
            new_id=lambda: f"llm-{next(self._ids)}",
            run=run,
        )

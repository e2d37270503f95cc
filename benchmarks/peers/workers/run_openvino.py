"""A worker: OpenVINO GenAI's continuous batching.

Arguments are those of its SchedulerConfig; under "properties", those of the CPU plugin.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

from .jsonlines import Generate, answer


def load(model: str, args: dict[str, Any]) -> tuple[Generate, dict[str, str]]:
    """Builds the pipeline from a directory of OpenVINO's own format."""
    import numpy as np
    import openvino
    import openvino_genai as genai

    properties = args.pop("properties", {})
    config = genai.SchedulerConfig()
    for name, value in args.items():
        setattr(config, name, value)
    pipeline = genai.ContinuousBatchingPipeline(model, config, "CPU", properties)
    ids = itertools.count()

    def generate(prompts: list[list[int]], num_outputs: list[int]) -> tuple[float, int]:
        start_s = time.perf_counter()
        handles = []
        for prompt, num_output in zip(prompts, num_outputs, strict=True):
            sampling = genai.GenerationConfig()
            sampling.max_new_tokens = sampling.min_new_tokens = num_output
            sampling.ignore_eos = True
            sampling.do_sample = False
            sampling.apply_chat_template = False
            tokens = openvino.Tensor(np.array([prompt], np.int64))
            handles.append(pipeline.add_request(next(ids), tokens, sampling))
        while pipeline.has_non_finished_requests():
            pipeline.step()
        wall_s = time.perf_counter() - start_s
        return wall_s, sum(len(handle.read_all()[0].generated_ids) for handle in handles)

    return generate, {"openvino": openvino.__version__, "openvino-genai": genai.__version__}


if __name__ == "__main__":
    answer(load)

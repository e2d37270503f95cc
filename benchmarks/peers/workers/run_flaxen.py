"""A worker: flaxen's engine, driven as `flaxen bench` drives it. Arguments are EngineArgs'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .jsonlines import Generate, answer


def load(model: str, args: dict[str, Any]) -> tuple[Generate, dict[str, str]]:
    """Builds the engine, with every step compiled."""
    import jax

    import flaxen
    from flaxen.benchmark.measure import run_requests
    from flaxen.build import build
    from flaxen.compile_cache import use_compile_cache
    from flaxen.engine_args import EngineArgs

    if "compile_cache" in args:
        use_compile_cache(Path(args.pop("compile_cache")))
    parts = build(EngineArgs(model=model, offline=True, **args))
    while parts.model.backend.pads_cheaply and parts.engine.warm_up():
        pass

    def generate(prompts: list[list[int]], num_outputs: list[int]) -> tuple[float, int]:
        # It raises where a request ends with other than the tokens asked for.
        wall_s = run_requests(parts.engine, [tuple(p) for p in prompts], num_outputs)
        return wall_s, sum(num_outputs)

    return generate, {"flaxen": flaxen.__version__, "jax": jax.__version__}


if __name__ == "__main__":
    answer(load)

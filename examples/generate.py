"""Continues three prompts in one batch, in this process."""

from flaxen import LLM, SamplingParams


def main() -> None:
    """Prints each prompt with its continuation."""
    llm = LLM("smollm2-135m")
    prompts = ["The capital of France is", "Once upon a time", "1, 2, 3, 5, 8,"]
    for output in llm.generate(prompts, SamplingParams(temperature=0, max_tokens=24)):
        print(f"{output.prompt}|{output.outputs[0].text}")


if __name__ == "__main__":
    main()

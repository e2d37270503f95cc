"""Models that jobs made: deleted as OpenAI's, unloaded as vLLM's, read at their first use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from flaxen.protocol import AdapterSource
from tests.job_routes.fine_tuning.serving import MODEL, FakeTrainer, Served, serving
from tests.job_routes.fine_tuning.test_jobs import create
from tests.server.adapters.test_adapters import weights
from tests.server.clients import get, openai_client, post, run

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as each:
        yield each


def make_model(served: Served) -> str:
    job_id = create(served, suffix="mine").json()["id"]
    return str(served.wait_for(job_id, "succeeded")["model_name"])


def ask(served: Served, model: str) -> Any:
    return post(served.app, "/v1/chat/completions", {"model": model, **CHAT})


def listed(served: Served) -> list[str]:
    return [model["id"] for model in get(served.app, "/v1/models").json()["data"]]


def test_a_deleted_model_is_gone_and_its_job_still_names_it(served: Served) -> None:
    name = make_model(served)
    checkpoint = f"{name}:ckpt-step-2"
    assert listed(served) == [MODEL, checkpoint, name]

    async def work() -> None:
        async with openai_client(served.app) as client:
            gone = await client.models.delete(name)
            assert (gone.id, gone.object, gone.deleted) == (name, "model", True)
            with pytest.raises(openai.NotFoundError, match="is not served here") as caught:
                await client.chat.completions.create(model=name, **CHAT)
            assert caught.value.code == "model_not_found"
            with pytest.raises(openai.NotFoundError, match="is not served here"):
                await client.models.retrieve(name)
            with pytest.raises(openai.NotFoundError, match="no fine-tuning job made a model"):
                await client.models.delete(name)
            (job,) = [job async for job in client.fine_tuning.jobs.list()]
            assert (job.status, job.fine_tuned_model) == ("succeeded", name)
            points = [c async for c in client.fine_tuning.jobs.checkpoints.list(job.id)]
            assert [c.fine_tuned_model_checkpoint for c in points] == [name, checkpoint]
            answer = await client.chat.completions.create(model=checkpoint, **CHAT)
            assert answer.model == checkpoint

    run(work())
    assert listed(served) == [MODEL, checkpoint]
    assert ask(served, f"{MODEL}:{name}").status_code == 404
    assert served.trainer.removed == [(served.trainer.jobs[0].id, 3, name)]


def test_checkpoints_are_deleted_too_and_by_both_names(served: Served) -> None:
    name = make_model(served)
    path = f"/v1/models/{MODEL}:{name}:ckpt-step-2"
    answer = call(served, "DELETE", path)
    assert answer.json() == {"id": path.removeprefix("/v1/models/"), "object": "model",
                             "deleted": True}  # fmt: skip
    assert listed(served) == [MODEL, name]


def test_a_deleted_model_stays_deleted(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        name = make_model(served)
        call(served, "DELETE", f"/v1/models/{name}")
        job_id = served.trainer.jobs[0].id
    with serving(tmp_path, FakeTrainer()) as served:
        assert listed(served) == [MODEL, f"{name}:ckpt-step-2"]
        assert ask(served, name).status_code == 404
        assert served.trainer.removed == [(job_id, 3, name)]  # had the first been killed
        # A job that went back to a state before the checkpoint makes its model again.
        served.trainer.may_step.clear()
        other = create(served).json()["id"]
        running = served.wait_for(other, "running")["model_name"]
        served.jobs.add_checkpoint(other, 3, running, {})
        served.jobs.delete_model(running)
        served.trainer.may_step.set()
        served.wait_for(other, "succeeded")
        assert running not in listed(served)
        assert served.trainer.removed[-1] == (other, 3, running)


def test_a_model_whose_files_can_not_be_removed_is_gone_all_the_same(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        name = make_model(served)
        served.trainer.remove_raises = PermissionError("not ours")
        assert call(served, "DELETE", f"/v1/models/{name}").json()["deleted"] is True
        assert name not in listed(served)
    trainer = FakeTrainer()
    trainer.remove_raises = PermissionError("not ours")
    with serving(tmp_path, trainer) as served:  # it starts, and has tried once more
        assert [removed for *_, removed in trainer.removed] == [name]
        assert name not in listed(served)


def test_the_base_and_what_no_job_made_can_not_be_deleted(served: Served) -> None:
    served.engine.load_adapter("loaded", weights())
    answer = call(served, "DELETE", f"/v1/models/{MODEL}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "model_not_deletable")
    assert "is the base model, which can't be deleted" in answer.json()["error"]["message"]
    for name in ("loaded", "none", "ft:fake/model::x"):
        answer = call(served, "DELETE", f"/v1/models/{name}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert "no fine-tuning job made a model" in answer.json()["error"]["message"]
    assert "loaded" in listed(served)


def test_a_model_is_read_at_its_first_use_and_again_after_it_was_unloaded(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        name = make_model(served)
        created = {m["id"]: m["created"] for m in get(served.app, "/v1/models").json()["data"]}
    with serving(tmp_path, FakeTrainer()) as served:
        reads = served.trainer.num_reads
        models = get(served.app, "/v1/models").json()["data"]
        assert {model["id"]: model["created"] for model in models} == created
        assert reads.total() == 0
        for _ in range(2):
            assert ask(served, name).status_code == 200
        assert reads == {name: 1}
        answer = post(served.app, "/v1/unload_lora_adapter", {"lora_name": name})
        assert answer.text == f"Success: LoRA adapter '{name}' removed successfully."
        assert name in listed(served)
        completion = {"model": name, "prompt": ["a", "b"], "max_tokens": 1}
        assert post(served.app, "/v1/completions", completion).status_code == 200
        assert reads == {name: 2}


def test_only_fine_tuned_models_can_be_unloaded_without_more(served: Served) -> None:
    served.engine.load_adapter("loaded", weights())
    for name in ("loaded", "none", MODEL):
        answer = post(served.app, "/v1/unload_lora_adapter", {"lora_name": name})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "adapter_not_found")
        assert "only with --allow-runtime-lora-updating" in answer.json()["error"]["message"]
    assert "loaded" in listed(served)
    assert post(served.app, "/v1/unload_lora_adapter", {}).status_code == 400
    assert post(served.app, "/v1/load_lora_adapter", {}).status_code == 404


def test_a_model_that_can_not_be_read_says_so(served: Served) -> None:
    def read() -> Any:
        raise OSError("/secret/path is damaged")

    served.engine.register_adapter("broken", AdapterSource(rank=1, created=0, read=read))
    answer = ask(served, "broken")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "model_unreadable")
    assert "the weights of the model 'broken' can't be read" in answer.json()["error"]["message"]
    assert "secret" not in answer.text
    assert ask(served, MODEL).status_code == 200


def test_a_model_that_is_deleted_while_it_is_read_is_not_found(served: Served) -> None:
    def read() -> Any:
        served.engine.remove_adapter("short")
        raise OSError("its file is gone")

    served.engine.register_adapter("short", AdapterSource(rank=1, created=0, read=read))
    answer = ask(served, "short")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def call(served: Served, method: str, path: str) -> Any:
    from tests.server.clients import http_client

    async def send() -> Any:
        async with http_client(served.app) as client:
            return await client.request(method, path)

    return run(send())

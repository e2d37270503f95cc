"""Converts rows of the database to OpenAI's JSON objects. Deliberately does not know routes."""

from __future__ import annotations

from typing import Any

from flaxen.job_routes.storage.pages import Row


def job_json(row: Row) -> dict[str, Any]:
    """OpenAI's `fine_tuning.job`, with our field `lora`."""
    return {
        "id": row["id"],
        "object": "fine_tuning.job",
        "created_at": row["created_at"],
        "finished_at": row["finished_at"],
        "estimated_finish": row["estimated_finish"],
        "status": row["status"],
        "model": row["model"],
        "fine_tuned_model": row["model_name"] if row["status"] == "succeeded" else None,
        "organization_id": "flaxen",
        "training_file": row["training_file"],
        "validation_file": row["validation_file"],
        "result_files": [],
        "hyperparameters": {k: v for k, v in row["hyperparameters"].items() if k != "beta"},
        "method": {
            "type": row["method"],
            row["method"]: {"hyperparameters": row["hyperparameters"]},
        },
        "lora": row["lora"],
        "seed": row["seed"],
        "trained_tokens": row["trained_tokens"] if row["status"] == "succeeded" else None,
        "error": row["error"],
        "integrations": [],
        "metadata": row["metadata"],
    }


def event_json(row: Row) -> dict[str, Any]:
    """OpenAI's `fine_tuning.job.event`."""
    return {
        "id": row["id"],
        "object": "fine_tuning.job.event",
        "created_at": row["created_at"],
        "level": row["level"],
        "message": row["message"],
        "type": row["type"],
        "data": row["data"] or {},
    }


def checkpoint_json(row: Row) -> dict[str, Any]:
    """OpenAI's `fine_tuning.job.checkpoint`."""
    return {
        "id": row["id"],
        "object": "fine_tuning.job.checkpoint",
        "created_at": row["created_at"],
        "fine_tuned_model_checkpoint": row["model_name"],
        "fine_tuning_job_id": row["job_id"],
        "metrics": row["metrics"],
        "step_number": row["step"],
    }

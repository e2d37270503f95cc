"""The tables of files, fine-tuning jobs and batches, and the connection to their database.

Portable SQL only: SQLite by default, PostgreSQL by URL. Deliberately does not know what a job does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()


def _numbered(name: str, *columns: Any) -> sa.Table:
    """A table whose `number` is the order of creation, even within a second."""
    number = sa.Column("number", sa.Integer, primary_key=True, autoincrement=True)
    return sa.Table(name, metadata, number, *columns)


def _listed(name: str, *columns: Any) -> sa.Table:
    """The same with an `id`, which clients see."""
    own = sa.Column("id", sa.String(64), nullable=False, unique=True)
    return _numbered(name, own, *columns)


files = _listed(
    "flaxen_files",
    sa.Column("created_at", sa.BigInteger, nullable=False),  # seconds since 1970, as all times
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)

jobs = _listed(
    "flaxen_fine_tuning_jobs",
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("finished_at", sa.BigInteger),
    sa.Column("estimated_finish", sa.BigInteger),
    sa.Column("status", sa.String(32), nullable=False, index=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),  # the resulting model, once there is one
    sa.Column("training_file", sa.String(64), nullable=False),
    sa.Column("validation_file", sa.String(64)),
    sa.Column("method", sa.String(32), nullable=False),  # "supervised" or "dpo"
    # as requested; "auto" is replaced when the job runs
    sa.Column("hyperparameters", sa.JSON, nullable=False),
    sa.Column("lora", sa.JSON, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("metadata", sa.JSON),
    sa.Column("error", sa.JSON),
    sa.Column("trained_tokens", sa.BigInteger),
    sa.Column("last_step", sa.Integer, nullable=False, default=0),  # the last reported step
)

events = _listed(
    "flaxen_fine_tuning_events",
    sa.Column("job_id", sa.String(64), nullable=False, index=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("level", sa.String(16), nullable=False),
    sa.Column("type", sa.String(16), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("data", sa.JSON),
)

checkpoints = _listed(
    "flaxen_fine_tuning_checkpoints",
    sa.Column("job_id", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.UniqueConstraint("job_id", "step"),
)

batches = _listed(
    "flaxen_batches",
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("status", sa.String(32), nullable=False, index=True),
    sa.Column("changed_at", sa.JSON, nullable=False),  # the times of its statuses, by their names
    sa.Column("endpoint", sa.String(64), nullable=False),
    sa.Column("input_file", sa.String(64), nullable=False),
    sa.Column("output_file", sa.String(64)),
    sa.Column("error_file", sa.String(64)),
    sa.Column("num_requests", sa.Integer, nullable=False, default=0),
    sa.Column("num_completed", sa.Integer, nullable=False, default=0),
    sa.Column("num_failed", sa.Integer, nullable=False, default=0),
    sa.Column("errors", sa.JSON),  # what is wrong with the input file
    sa.Column("metadata", sa.JSON),
)

# The answers of a batch that has not ended, so that a restarted server goes on behind them.
batch_results = _numbered(
    "flaxen_batch_results",
    sa.Column("batch_id", sa.String(64), nullable=False, index=True),
    sa.Column("line", sa.Integer, nullable=False),  # of the input file, from 1
    sa.Column("is_error", sa.Boolean, nullable=False),
    sa.Column("text", sa.Text, nullable=False),  # the line of the output file
    sa.UniqueConstraint("batch_id", "line"),
)

deleted_models = sa.Table(
    "flaxen_deleted_models",
    metadata,
    sa.Column("model_name", sa.Text, primary_key=True),  # the model of a checkpoint
    sa.Column("deleted_at", sa.BigInteger, nullable=False),
)

# One row: the data directory that the database belongs to.
owners = sa.Table(
    "flaxen_data_directory",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.String(64), nullable=False),
    sa.Column("directory", sa.Text, nullable=False),  # its path when the id was given
)


def open_database(url: str | None, data_dir: Path) -> sa.Engine:
    """Connects to the database, and creates missing tables.

    Args:
      url: SQLAlchemy's URL of the database; None is SQLite in `data_dir`.

    Raises:
      ValueError: the URL is invalid, its driver is not installed, or the database can't be reached.
    """
    try:
        parsed = sa.make_url(url or f"sqlite:///{data_dir / 'flaxen.db'}")
        engine = sa.create_engine(parsed, pool_pre_ping=True)
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _set_up_sqlite)
        metadata.create_all(engine)
    except ImportError as error:
        raise ValueError(
            f"the database's driver {error.name!r} is not installed: "
            "pip install 'flaxen[postgresql]' has PostgreSQL's"
        ) from error
    except sa.exc.ArgumentError:
        raise ValueError(
            "the database URL is not one: write it as postgresql+psycopg://USER@HOST/NAME"
        ) from None  # the original message may contain a password
    except sa.exc.DBAPIError as error:
        where = parsed.render_as_string(hide_password=True)
        reason = " ".join(str(error.orig).split())  # a driver's message has several lines
        raise ValueError(
            f"the database {where} can't be used: {reason}. Check that it runs, that the "
            "database exists and that the user may make tables in it"
        ) from error
    return engine


def _set_up_sqlite(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")  # readers never wait for a writer
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()

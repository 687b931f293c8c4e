"""Settings shared by the processes of one installation: environment variables that begin with PRUNEYARD_."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from specs.hours import Hours
from specs.webhooks import check_webhook

MEBIBYTE = 1024 * 1024
GIBIBYTE = 1024 * MEBIBYTE


def _split_paths(value: Any) -> Any:
    """Paths as in PATH: separated by colons (semicolons on Windows)."""
    return tuple(part for part in value.split(os.pathsep) if part.strip()) if isinstance(value, str) else value


def _split_names(value: Any) -> Any:
    """Names separated by semicolons: a comma may be part of one."""
    return tuple(part.strip() for part in value.split(";") if part.strip()) if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _bare(value: Any) -> Any:
    """An address of IPv6 without the brackets that it has in a URL."""
    return value.removeprefix("[").removesuffix("]") if isinstance(value, str) else value


class Settings(BaseSettings):
    """Where data lies and how the processes behave."""

    model_config = SettingsConfigDict(env_prefix="PRUNEYARD_", env_ignore_empty=True)

    home: Path = Field(default=Path("var"), description="Data folder: database, models, checkpoints.")
    database_url: str | None = Field(default=None, description="SQLAlchemy URL; by default SQLite in the data folder.")
    host: Annotated[str, BeforeValidator(_bare)] = Field(default="127.0.0.1", description="Address the API listens on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8000, description="Port the API listens on.")
    api_key: SecretStr | None = Field(default=None, description="When set, every route but health asks for it.")
    max_body_bytes: Annotated[int, Field(ge=1024)] = Field(default=32 * MEBIBYTE, description="Of one request.")
    body_seconds: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=120.0, description="In which the body of one request must arrive."
    )
    max_pixels: Annotated[int, Field(ge=1024)] = Field(default=50_000_000, description="Of one image, before decoding.")
    model_cache_bytes: Annotated[int, Field(ge=0)] = Field(
        default=512 * MEBIBYTE, description="Of loaded models' weights; the least recently used go first."
    )
    preload: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_names)] = Field(
        default=(), description="Models (ids, aliases or names) that are loaded at start and stay in memory."
    )
    kernel_cache_bytes: Annotated[int, Field(ge=0)] = Field(
        default=GIBIBYTE, description="Of networks as a runtime compiled them; the least recently used go first."
    )
    max_queued_images: Annotated[int, Field(ge=1)] = Field(default=1024, description="Waiting for one model.")
    inference_threads: Annotated[int, Field(ge=0, le=256)] = Field(
        default=0, description="Of the runtime; 0 takes the physical cores that the service may use."
    )
    training_threads: Annotated[int, Field(ge=0, le=256)] = Field(
        default=0, description="Of a training; 0 takes the physical cores that the worker may use."
    )
    device_probe: bool = Field(
        default=True, description="Whether accelerators are tried out; if not, only the CPU trains and predicts."
    )
    access_log: bool = Field(default=False, description="Whether the API logs every request.")
    log_format: Annotated[Literal["auto", "json", "text"], BeforeValidator(_lower)] = Field(
        default="auto", description="Of the logs; auto is JSON, and text at a terminal."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        default="info", description="The least that is logged."
    )
    worker_ttl_seconds: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=30.0, description="A worker on another machine that has not beaten for so long is dead."
    )
    stall_seconds: Annotated[float, Field(gt=0)] = Field(
        default=1800.0, description="A training that makes no step for so long is stopped."
    )
    checkpoint_seconds: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=300.0,
        description="Within an epoch a training writes a checkpoint so often, or after 20 times what one takes.",
    )
    keep_loaded_seconds: Annotated[float, Field(ge=0)] = Field(
        default=600.0, description="After a job what it needed stays loaded for the next; 0: each loads it. On Linux."
    )
    keep_checkpoints_days: Annotated[float, Field(ge=0, le=36500)] = Field(
        default=7.0, description="Of jobs that failed or were cancelled."
    )
    data_roots: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split_paths)] = Field(
        default=(), description="Folders of this machine whose subfolders may be read as data sets."
    )
    pretrained_dir: Path | None = Field(
        default=None, description="Folder of pretrained weights, under torchvision's file names; asked before the web."
    )
    max_upload_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=20 * GIBIBYTE, description="Of the archive of one data set, packed and unpacked."
    )
    max_image_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=50 * MEBIBYTE, description="Of one image file in a data set."
    )
    max_dataset_files: Annotated[int, Field(ge=1)] = Field(default=500_000, description="In the archive of a data set.")
    ingest_memory_bytes: Annotated[int, Field(ge=512 * MEBIBYTE)] = Field(
        default=4 * GIBIBYTE, description="Address space of the process that reads a data set."
    )
    ingest_seconds: Annotated[float, Field(gt=0, le=2_592_000)] = Field(
        default=3600.0, description="Of processor time to read one data set."
    )
    array_cache_bytes: Annotated[int, Field(ge=0)] = Field(
        default=10 * GIBIBYTE, description="Of decoded images; the least recently used go first."
    )
    keep_uploads_days: Annotated[float, Field(ge=0, le=36500)] = Field(
        default=7.0, description="Uploads that nobody finished."
    )
    upload_idle_seconds: Annotated[float, Field(gt=0)] = Field(
        default=60.0, description="An upload that brings nothing for so long is broken off; it can be taken up again."
    )
    shutdown_grace_seconds: Annotated[float, Field(gt=0, le=86400)] = Field(
        default=20.0, description="What a training gets to write its checkpoint when the worker is asked to stop."
    )

    training_on_battery: bool = Field(
        default=True, description="Whether trainings run while the machine runs on its battery."
    )
    training_battery_percent: Annotated[int, Field(ge=0, le=100)] = Field(
        default=0, description="On battery, trainings wait while it is charged less."
    )
    training_hours: Hours | None = Field(
        default=None, description="Of the day, local time, in which trainings run, such as 22-7 or 22:30-6:45."
    )
    predict_budget_ms: Annotated[float, Field(gt=0, le=60_000)] | None = Field(
        default=None, description="95th percentile of predictions above which trainings work half of the time."
    )
    webhook_url: SecretStr | None = Field(
        default=None, description="Where ends of jobs are told; it may hold a token, so it is shown nowhere."
    )
    webhook_secret: SecretStr | None = Field(
        default=None, description="What messages are signed with: `whsec_` and 24 to 64 bytes in base64."
    )
    webhook_private: bool = Field(
        default=False, description="Whether messages may go to this machine and to private networks."
    )

    parent_pid: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="The process that this one ends with; set by `pruneyard up`."
    )

    @model_validator(mode="after")
    def _key_beyond_loopback(self) -> Self:
        if self.api_key is not None and not self.api_key.get_secret_value().strip():
            raise ValueError("PRUNEYARD_API_KEY is blank; give a key or unset it.")
        if self.api_key is None and not is_loopback(self.host):
            raise ValueError(
                "PRUNEYARD_HOST is not a loopback address and PRUNEYARD_API_KEY is not set: anybody who reaches this "
                "machine could use it. Set PRUNEYARD_API_KEY, or PRUNEYARD_HOST=127.0.0.1."
            )
        return self

    @model_validator(mode="after")
    def _webhook_with_a_secret(self) -> Self:
        if self.webhook_url is not None:
            check_webhook(
                self.webhook_url.get_secret_value(),
                secret=self.webhook_secret.get_secret_value() if self.webhook_secret is not None else None,
            )
        return self


class BadSettings(ValueError):
    """Settings that cannot be used, a line each; never with their values, which may be secret."""


def load_settings() -> Settings:
    """The settings of the environment, or BadSettings."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [_line(problem) for problem in error.errors(include_input=False, include_url=False)]
        raise BadSettings("\n".join(lines)) from None


def _line(problem: Any) -> str:
    variables = ["PRUNEYARD_" + str(part).upper() for part in problem["loc"]]
    return ": ".join([*variables, problem["msg"].removeprefix("Value error, ")])


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

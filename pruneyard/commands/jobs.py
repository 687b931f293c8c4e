"""Commands that ask for jobs and look after them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from pruneyard.answers import Job
from pruneyard.client import Client
from pruneyard.figures import console, duration, percent, size, table
from pruneyard.interrupts import Stopped
from pruneyard.progress import follow

WIDE = 140

Priority = Annotated[
    int, typer.Option("--priority", min=-100, max=100, help="Waiting jobs of a higher one go first; 0 if not said.")
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return once the job is accepted.")]
Name = Annotated[str | None, typer.Option("--name", help="Of the job and its model.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Train nothing; say what it would take on this machine, or what it would cost."),
]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the training images.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Images per step.")]
JobId = Annotated[str, typer.Argument(metavar="ID")]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="A whole job spec; '-' reads it from standard input.")
]


def job_commands() -> typer.Typer:
    """`jobs` and what stands below it."""
    app = typer.Typer(help="List jobs, show, pause, cancel or repeat one.", invoke_without_command=True)
    app.callback()(list_jobs)
    app.command("show")(show_job)
    app.command("cancel")(cancel_job)
    app.command("pause")(pause_job)
    app.command("resume")(resume_job)
    app.command("retry")(retry_job)
    app.command("clone")(clone_job)
    app.command("bundle")(save_bundle)
    return app


def train(  # noqa: PLR0913 - one parameter an option
    *,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Id or name of a data set, such as digits.")] = None,
    architecture: Annotated[str | None, typer.Option("--architecture", help="Such as resnet18.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the architecture.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Settings that go well together, such as fast; what you set wins.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option("--optimizer", help="Such as adam.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help="Of the learning rate.")] = None,
    augmentation: Annotated[
        list[str] | None, typer.Option("--augmentation", help="Such as crop-flip; more than once for several in a row.")
    ] = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    name: Name = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of everything random.")] = None,
    spec_file: JsonFile = None,
    dry_run: DryRun = False,
    priority: Priority = 0,
    no_wait: NoWait = False,
) -> None:
    """Train a network; options stand above what --json says."""
    spec = {"kind": "train", **(_read_spec(spec_file) if spec_file else {})}
    _merge(spec, "architecture", architecture, options=_pairs(settings or ()))
    if (
        (recipe or spec.get("recipe") or "plain") != "plain"
        and lr is not None
        and not optimizer
        and "optimizer" not in spec
    ):
        raise typer.BadParameter(
            "a recipe chose lr for its own optimizer: say which with --optimizer.", param_hint="--lr"
        )
    _merge(spec, "optimizer", optimizer, options={} if lr is None else {"lr": lr}, default="adam")
    plain: dict[str, Any] = {"dataset": dataset, "schedule": schedule, "epochs": epochs, "batch_size": batch_size}
    plain |= {"recipe": recipe, "name": name, "seed": seed, "augmentation": augmentation or None}
    spec.update({key: value for key, value in plain.items() if value is not None})
    for option in ("dataset", "architecture"):
        if option not in spec and spec["kind"] == "train":
            raise typer.BadParameter("say which, here or with --json.", param_hint=f"--{option}")
    _submit(spec, wait=not no_wait, dry_run=dry_run, priority=priority)


def prune(  # noqa: PLR0913 - one parameter an option
    model: Annotated[str, typer.Argument(help="Id, alias or name of the model.")],
    *,
    sparsity: Annotated[
        float | None,
        typer.Option("--sparsity", help="Share to cut: of the weights, 0.9 where it is not said, or of the channels."),
    ] = None,
    speedup: Annotated[
        float | None, typer.Option("--speedup", help="How many times as fast; cuts channels, by l1-filter if not said.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=0, help="Of retraining; 0 for none.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Which pruning method.")] = None,
    name: Name = None,
    dry_run: DryRun = False,
    priority: Priority = 0,
    no_wait: NoWait = False,
) -> None:
    """Prune a model and retrain what is left; the model itself stays."""
    spec: dict[str, Any] = {"kind": "prune", "model": model}
    if speedup is not None:
        method = method or "l1-filter"
    given = {"sparsity": sparsity, "speedup": speedup, "method": method, "name": name}
    spec.update({key: value for key, value in given.items() if value is not None})
    if epochs is not None:
        spec["fine_tune"] = {"epochs": epochs} if epochs else None
    _submit(spec, wait=not no_wait, dry_run=dry_run, priority=priority)


def distill(  # noqa: PLR0913 - one parameter an option
    teacher: Annotated[str, typer.Argument(help="Id, alias or name of the model to learn from.")],
    *,
    architecture: Annotated[str, typer.Option("--architecture", help="Of the network that learns.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the architecture.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Settings that go well together, such as fast.")
    ] = None,
    epochs: Epochs = None,
    name: Name = None,
    dry_run: DryRun = False,
    priority: Priority = 0,
    no_wait: NoWait = False,
) -> None:
    """Train a network on a model's images and on what the model thinks of them."""
    spec: dict[str, Any] = {"kind": "distill", "teacher": teacher}
    _merge(spec, "architecture", architecture, options=_pairs(settings or ()))
    given = {"recipe": recipe, "epochs": epochs, "name": name}
    spec.update({key: value for key, value in given.items() if value is not None})
    _submit(spec, wait=not no_wait, dry_run=dry_run, priority=priority)


def quantize(
    model: Annotated[str, typer.Argument(help="Id, alias or name of the model.")],
    *,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", help="Validation accuracy that may be lost; 0.01 where it is not said."),
    ] = None,
    name: Name = None,
    priority: Priority = 0,
    no_wait: NoWait = False,
) -> None:
    """Make a copy of a model that computes with 8-bit integers; the model itself stays."""
    spec: dict[str, Any] = {"kind": "quantize", "model": model}
    spec.update({key: value for key, value in {"max_drop": max_drop, "name": name}.items() if value is not None})
    _submit(spec, wait=not no_wait, priority=priority)


def list_jobs(
    context: typer.Context,
    status: Annotated[str | None, typer.Option("--status", help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50,
) -> None:
    """List jobs, the newest first."""
    if context.invoked_subcommand is not None:
        return
    filters = {"status": status, "limit": min(limit, 100)}
    with Client() as client:
        rows = [_row(job) for job in islice(client.jobs(**filters), limit)]
    out = console()
    columns = ["id", "kind", "name", "status", "progress", "left", "created", "model"]
    kept = [0, 2, 3, 4] if out.width < WIDE else range(len(columns))
    shown = [[row[number] for number in kept] for row in rows]
    out.print(table([columns[number] for number in kept], shown, whole=("id", "status", "model")))


def show_job(job_id: JobId) -> None:
    """Print a job as JSON."""
    with Client() as client:
        console().print_json(data=client.job(job_id))


def cancel_job(job_id: JobId) -> None:
    """Cancel a job for good."""
    _tell(lambda client: client.cancel(job_id))


def pause_job(job_id: JobId) -> None:
    """Set a job aside; a running one leaves its worker to others."""
    _tell(lambda client: client.pause(job_id))


def resume_job(job_id: JobId) -> None:
    """Let a paused job go on from its checkpoint."""
    _tell(lambda client: client.resume(job_id))


def retry_job(job_id: JobId) -> None:
    """Try a job that failed or was cancelled again, from its checkpoint."""
    _tell(lambda client: client.retry(job_id))


def clone_job(
    job_id: JobId,
    *,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A field of the job that is to differ.")
    ] = None,
    spec_file: JsonFile = None,
    priority: Priority = 0,
    no_wait: NoWait = False,
) -> None:
    """Ask for the same job once more, with changes."""
    changes = {**(_read_spec(spec_file) if spec_file else {}), **_pairs(settings or ())}
    for name in ("job_id", "idempotency_key", "priority"):
        if name in changes:
            hint = "there is the option --priority" if name == "priority" else "no job has such a field"
            raise typer.BadParameter(f"{name} is no field of a job: {hint}.", param_hint="--set")
    _follow(lambda client: client.clone(job_id, priority=priority, **changes), wait=not no_wait)


def save_bundle(
    job_id: JobId,
    file: Annotated[Path | None, typer.Option("--out", help="A file; by default the id with .zip, here.")] = None,
) -> None:
    """Save all that is known of a job as a zip, to see why it failed or to send it along."""
    target = file or Path(f"{job_id}.zip")
    with Client() as client:
        content = client.bundle(job_id)
    try:
        target.write_bytes(content)
    except OSError as error:
        raise typer.BadParameter(f"cannot write {target}: {error.strerror}.", param_hint="--out") from error
    console().print(Text(f"{target}: {size(len(content))}"))


def _tell(ask: Callable[[Client], Job]) -> None:
    with Client() as client:
        job = ask(client)
    # A running job's worker has yet to see what is asked.
    asked = next((word for word in ("cancel", "pause") if job.get(f"{word}_requested")), None)
    wish = f", {asked} asked for" if asked and job["status"] == "running" else ""
    console().print(Text(f"{job['id']}: {job['status']}{wish}"))


def _submit(spec: dict[str, Any], *, wait: bool, priority: int, dry_run: bool = False) -> None:
    _follow(lambda client: client.submit(spec, dry_run=dry_run, priority=priority), wait=wait)


def _follow(ask: Callable[[Client], Job], *, wait: bool) -> None:
    out = console()
    with Client() as client:
        job = ask(client)
        out.print(Text(f"{job['id']} accepted"))
        if not wait:
            return
        try:
            job = follow(client, job["id"], console=out)
        except (KeyboardInterrupt, Stopped):
            out.print(Text(f"The job goes on; `pruneyard jobs cancel {job['id']}` ends it."))
            raise
        out.print(Text(_outcome(job.get("result") or {})))


def _outcome(result: dict[str, Any]) -> str:
    if "model" in result:
        return f"model {result['model']}"
    return _quote(result) if "seconds_per_epoch" in result else json.dumps(result)


def _quote(result: dict[str, Any]) -> str:
    """What a training would take."""
    times = [duration(result[key]) for key in ("seconds", "seconds_low", "seconds_high")]
    lines = [
        f"time     {times[0]} ({times[1]} to {times[2]}) for {result['epochs']} epochs, then export and measurement",
        f"memory   {size(result['peak_memory_bytes'])} of {size(result['available_memory_bytes'])} that are free",
        f"disk     {size(result['disk_bytes'])} for checkpoints, of {size(result['free_disk_bytes'])} that are free",
    ]
    beside = result["jobs_beside"]
    if beside:
        lines.append(f"measured beside {beside} running {'job' if beside == 1 else 'jobs'}: alone it is faster")
    return "\n".join([*lines, "It fits." if result["fits"] else "It does not fit: there is too little memory or disk."])


def _row(job: Job) -> Sequence[str]:
    progress = job.get("progress") or {}
    state = job.get("phase") if job["status"] == "running" else job.get("reason")
    return [
        job["id"],
        job["kind"],
        job.get("name") or "",
        f"{job['status']} ({state})" if state else job["status"],
        percent(progress.get("fraction")),
        duration(progress.get("eta_seconds")),
        job.get("created_at", ""),
        str((job.get("result") or {}).get("model") or ""),
    ]


def _read_spec(source: str) -> dict[str, Any]:
    try:
        spec = json.loads(typer.get_text_stream("stdin").read() if source == "-" else Path(source).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"cannot read {source} as JSON: {error}", param_hint="--json") from error
    if not isinstance(spec, dict):
        raise typer.BadParameter(f"{source} holds no JSON object.", param_hint="--json")
    return spec


def _pairs(settings: Sequence[str]) -> dict[str, Any]:
    pairs = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{setting!r} is not KEY=VALUE.", param_hint="--set")
        pairs[key.strip()] = _value(value)
    return pairs


def _value(text: str) -> Any:
    """Numbers, true, false, null and lists as in JSON; all else is a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _merge(spec: dict[str, Any], key: str, name: str | None, *, options: dict[str, Any], default: str = "") -> None:
    """Put a name with options into the spec; another name than the spec's drops the options it had."""
    given = spec.get(key)
    before: dict[str, Any] = given if isinstance(given, dict) else {"name": given} if given else {}
    if name is not None and name != before.get("name"):
        before = {"name": name}
    if options and not before:
        if not default:
            raise typer.BadParameter(f"say which {key} too.", param_hint=f"--{key}")
        before = {"name": default}
    if before:
        spec[key] = {**before, **options}

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from io import BytesIO
from itertools import product
from pathlib import Path
from random import Random

import pytest

from pruneyard import ApiError, Client, DatasetFailed, NotReachable, PruneyardError, WaitTimeout
from pruneyard.connection import Connection
from pruneyard.packing import pack
from pruneyard.upload import PART_BYTES, Upload
from tests.pruneyard.conftest import FakeService, Handler
from tests.pruneyard.data_sets import FACTS, PREVIEW, REFUSALS

MEBIBYTE = 1024 * 1024
PASSING = ["broken", "unanswered", "busy", "under way", "elsewhere"]


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with Client(service.url, timeout=5) as opened:
        yield opened


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruneyard.upload.FIRST_DELAY", 0.01)
    monkeypatch.setattr("pruneyard.client.POLL_SECONDS", 0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3.3 MB in seven files."""
    made = tmp_path_factory.mktemp("cats")
    random = Random(0)
    for number in range(7):
        path = made / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(random.randbytes(100_000 + 120_000 * number))
    return made


def packed(path: Path) -> bytes:
    return b"".join(pack(path).read_from(0))


def send(service: FakeService, dataset_id: str, path: Path, patience: float = 5.0) -> list[int]:
    """Upload in parts of 1 MiB; what was told of progress."""
    told: list[int] = []
    with Connection(service.url, timeout=5) as connection:
        upload = Upload(
            connection,
            f"/v1/datasets/{dataset_id}",
            pack(path),
            on_progress=lambda sent, _total: told.append(sent),
            part_bytes=MEBIBYTE,
            patience=patience,
        )
        assert upload.run()["status"] == "processing"
    return told


def test_a_folder_is_made_a_data_set(client: Client, service: FakeService, folder: Path) -> None:
    told: list[tuple[int, int]] = []
    dataset = client.add_dataset("cats", folder, max_rejected=0.05, on_progress=lambda *both: told.append(both))
    (post,) = service.requests("POST", "/v1/datasets")
    assert json.loads(post.body) == {"name": "cats", "source": {"kind": "upload"}, "max_rejected": 0.05}
    assert dataset["status"] == "processing"
    assert service.jobs[dataset["job"] or ""]["kind"] == "ingest"
    content = service.shelf.received(dataset["id"])
    assert content == packed(folder)
    with tarfile.open(fileobj=BytesIO(content)) as tar:
        assert tar.getnames() == sorted(f"{'cat' if n % 2 else 'dog'}/{n}.png" for n in range(7))
    assert told[0] == (0, len(content))
    assert told[-1] == (len(content), len(content))
    assert [sent for sent, _ in told] == sorted(sent for sent, _ in told)


def test_parts_are_of_eight_mebibytes(client: Client, service: FakeService, tmp_path: Path) -> None:
    content = b"PK\x03\x04" + os.urandom(2 * PART_BYTES)
    (tmp_path / "cats.zip").write_bytes(content)
    dataset = client.add_dataset("cats", str(tmp_path / "cats.zip"))
    puts = service.requests("PUT", f"/v1/datasets/{dataset['id']}/content")
    assert [put.headers["Content-Range"] for put in puts] == [
        f"bytes 0-{PART_BYTES - 1}/{len(content)}",
        f"bytes {PART_BYTES}-{2 * PART_BYTES - 1}/{len(content)}",
        f"bytes {2 * PART_BYTES}-{len(content) - 1}/{len(content)}",
    ]
    assert service.shelf.received(dataset["id"]) == content


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("mishaps", [*product(PASSING, PASSING), PASSING, ["broken"] * 20, ["busy"] * 5, ["restarted"]])
def test_what_passes_does_not_stop_an_upload(service: FakeService, folder: Path, mishaps: list[str]) -> None:
    dataset_id = service.shelf.add()
    service.shelf.mishaps = ["", *mishaps]
    told = send(service, dataset_id, folder)
    assert not service.shelf.mishaps
    assert service.shelf.received(dataset_id) == packed(folder)
    assert told[-1] == pack(folder).size


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("after", range(4))
def test_a_service_that_restarts_at_half_is_waited_for(service: FakeService, folder: Path, after: int) -> None:
    dataset_id = service.shelf.add()
    service.shelf.mishaps = [*[""] * after, "restarted"]
    send(service, dataset_id, folder)
    assert service.shelf.received(dataset_id) == packed(folder)


def test_a_line_that_keeps_breaking_gets_smaller_parts(service: FakeService, folder: Path) -> None:
    dataset_id = service.shelf.add()
    service.shelf.mishaps = ["broken"] * 3
    send(service, dataset_id, folder)
    puts = service.requests("PUT", f"/v1/datasets/{dataset_id}/content")
    lengths = [int(put.headers["Content-Length"]) for put in puts]
    assert lengths[:6] == [MEBIBYTE, MEBIBYTE // 2, MEBIBYTE // 4, MEBIBYTE // 4, MEBIBYTE // 2, MEBIBYTE]


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    ("mishap", "error", "words"),
    [("busy", ApiError, "Busy"), ("unreachable", NotReachable, "No Pruneyard service"), ("under way", ApiError, "way")],
)
def test_patience_ends(
    service: FakeService, folder: Path, mishap: str, error: type[PruneyardError], words: str
) -> None:
    dataset_id = service.shelf.add()
    if mishap == "unreachable":
        service.shelf.mishaps, service.shelf.away = ["restarted"], 3.0
    else:
        service.shelf.mishaps = [mishap] * 1000
    with pytest.raises(error, match=words):
        send(service, dataset_id, folder, patience=0.5)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(("mishap", "status"), [("full", 507), ("too large", 413)])
def test_what_does_not_pass_is_told_at_once_and_the_upload_can_go_on(
    service: FakeService, client: Client, folder: Path, mishap: str, status: int
) -> None:
    dataset_id = service.shelf.add()
    service.shelf.mishaps = [mishap]
    with pytest.raises(ApiError) as caught:
        client.upload(dataset_id, folder)
    assert caught.value.status == status
    assert len(service.requests("PUT", f"/v1/datasets/{dataset_id}/content")) == 1
    client.upload(dataset_id, folder)
    assert service.shelf.received(dataset_id) == packed(folder)


def test_a_service_that_is_busy_for_long_is_not_waited_for(
    service: FakeService, client: Client, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(handler: Handler, _dataset_id: str) -> None:
        handler.close_connection = True
        handler.answer(503, {"title": "Busy"}, "application/problem+json", Retry_After="600")
        handler.rfile.read(int(handler.headers["Content-Length"]))

    monkeypatch.setitem(REFUSALS, "busy for long", busy)
    service.shelf.mishaps = ["busy for long"]
    with pytest.raises(ApiError, match="Busy") as caught:
        client.upload(service.shelf.add(), folder)
    assert caught.value.retry_after == 600


def test_an_error_says_how_the_upload_goes_on(service: FakeService, client: Client, folder: Path) -> None:
    service.shelf.mishaps = ["full"]
    with pytest.raises(ApiError, match="disk is full") as caught:
        client.add_dataset("cats", folder)
    assert caught.value.__notes__ == ["`Client.upload('ds_1', path)` goes on with this upload."]


@pytest.mark.usefixtures("_quick")
def test_a_part_that_is_refused_again_after_it_was_put_right_fails(
    service: FakeService, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_id = service.shelf.add()
    wrong = {"received": 7}
    monkeypatch.setitem(REFUSALS, "wrong", lambda handler, _: handler.problem(409, "Conflict", **wrong))
    service.shelf.mishaps = ["", "wrong", "wrong"]
    with pytest.raises(ApiError, match="Conflict"):
        send(service, dataset_id, folder)


@pytest.mark.usefixtures("_quick")
def test_an_upload_that_somebody_else_is_making_is_left_to_them(
    service: FakeService, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_id = service.shelf.add()
    whole = packed(folder)

    def growing(handler: Handler, dataset_id: str) -> None:
        content = service.shelf.content[dataset_id]
        content += whole[len(content) : len(content) + 1000]
        REFUSALS["under way"](handler, dataset_id)

    monkeypatch.setitem(REFUSALS, "growing", growing)
    service.shelf.mishaps = ["growing"] * 1000
    with pytest.raises(ApiError, match="under way"):
        send(service, dataset_id, folder, patience=600)


@pytest.mark.parametrize("arrived", [0, 1, 511, 512, 700_000, 3_000_000])
def test_another_process_goes_on_where_the_first_stopped(
    service: FakeService, client: Client, folder: Path, arrived: int
) -> None:
    dataset_id, whole = service.shelf.add(), packed(folder)
    service.shelf.content[dataset_id] += whole[:arrived]
    told: list[int] = []
    client.upload(dataset_id, folder, lambda sent, _total: told.append(sent))
    assert service.shelf.received(dataset_id) == whole
    assert told[0] == arrived
    (put,) = service.requests("PUT", f"/v1/datasets/{dataset_id}/content")
    assert put.headers["Content-Range"].startswith(f"bytes {arrived}-")


def test_an_upload_that_stopped_after_its_last_byte_is_concluded(
    service: FakeService, client: Client, folder: Path
) -> None:
    dataset_id, whole = service.shelf.add(), packed(folder)
    service.shelf.content[dataset_id] += whole
    assert client.upload(dataset_id, folder)["status"] == "processing"
    (put,) = service.requests("PUT", f"/v1/datasets/{dataset_id}/content")
    assert (put.headers["Content-Range"], put.headers["Content-Length"]) == (f"bytes */{len(whole)}", "0")
    assert service.shelf.received(dataset_id) == whole


@pytest.mark.parametrize("status", ["processing", "ready"])
def test_what_is_complete_is_not_sent_again(service: FakeService, client: Client, folder: Path, status: str) -> None:
    dataset_id = service.shelf.add(status=status, upload=None, job=service.add_job())
    told: list[int] = []
    assert client.upload(dataset_id, folder, lambda sent, _total: told.append(sent))["status"] == status
    assert not service.requests("PUT", f"/v1/datasets/{dataset_id}/content")
    assert told == [pack(folder).size]


def test_an_upload_that_failed_meanwhile_is_told(service: FakeService, client: Client, folder: Path) -> None:
    dataset_id = service.shelf.add(status="failed", reason="too_many_bytes", message="The archive is too large.")
    with pytest.raises(DatasetFailed, match="too large"):
        client.upload(dataset_id, folder)


def test_other_files_than_those_that_were_begun_with_are_refused(
    service: FakeService, client: Client, folder: Path
) -> None:
    total = service.shelf.add(upload={"received": 0, "total": 5})
    beyond = service.shelf.add()
    service.shelf.content[beyond] += bytes(4 * MEBIBYTE)
    small = service.shelf.add(upload={"received": 0, "max_bytes": 1000})
    for dataset_id, words in ((total, "begun with 5"), (beyond, "begun with 4194304"), (small, "at most 1000")):
        with pytest.raises(PruneyardError, match=words):
            client.upload(dataset_id, folder)
        assert not service.requests("PUT", f"/v1/datasets/{dataset_id}/content")


def test_nothing_is_created_for_files_that_cannot_be_sent(service: FakeService, client: Client, tmp_path: Path) -> None:
    with pytest.raises(PruneyardError, match="holds no files"):
        client.add_dataset("cats", tmp_path)
    assert not service.seen


def test_sources_on_the_side_of_the_service(service: FakeService, client: Client) -> None:
    for source in ({"kind": "folder", "path": "/data/cats"}, {"kind": "torchvision", "name": "mnist"}):
        dataset = client.create_dataset("cats", source=source)
        assert dataset["status"] == "processing"
        assert json.loads(service.seen[-1].body) == {"name": "cats", "source": source}
    with pytest.raises(PruneyardError, match="data set cannot be written as JSON"):
        client.create_dataset("cats", max_rejected=float("nan"))


@pytest.mark.usefixtures("_quick")
def test_a_data_set_is_waited_for(service: FakeService, client: Client) -> None:
    dataset_id = service.shelf.add(status="processing", job=service.add_job())
    service.shelf.states = [{}, {"status": "ready", **FACTS}]
    seen: list[str] = []
    assert client.wait_dataset(dataset_id, lambda view: seen.append(view["status"]))["images"] == 15
    assert seen == ["processing", "ready"]
    assert client.wait_dataset("cats")["id"] == dataset_id


def test_a_data_set_that_fails_says_why_and_names_files(service: FakeService, client: Client) -> None:
    rejected = [
        {"path": f"cat/{number}.jpg", "reason": "truncated", "message": "The file ends in the middle of the image."}
        for number in range(30)
    ]
    reason = {"reason": "too_many_rejected", "message": "30 of 100 files cannot be used; 1 % may."}
    dataset_id = service.shelf.add(status="failed", **reason, rejected=rejected, rejected_count=1030)
    with pytest.raises(DatasetFailed) as caught:
        client.wait_dataset(dataset_id)
    assert (caught.value.reason, caught.value.dataset["id"]) == ("too_many_rejected", dataset_id)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"Data set cats ({dataset_id}) failed: too_many_rejected."
    assert lines[1] == reason["message"]
    assert lines[2] == "  cat/0.jpg: The file ends in the middle of the image."
    assert lines[-1] == "  and 1,020 more"


def test_waiting_for_a_data_set_ends_after_its_time(service: FakeService, client: Client) -> None:
    dataset_id = service.shelf.add(status="processing", job=service.add_job())
    with pytest.raises(WaitTimeout, match=f"Data set {dataset_id}") as caught:
        client.wait_dataset(dataset_id, timeout=0)
    assert caught.value.job_id == "job_1"
    with pytest.raises(ApiError, match="no data set"):
        client.wait_dataset("dogs")


def test_data_sets_are_shown_previewed_and_deleted(service: FakeService, client: Client) -> None:
    dataset_id = service.shelf.add()
    assert client.dataset("cats")["id"] == dataset_id
    assert client.preview("cats") == PREVIEW
    with pytest.raises(ApiError, match="trained on this data set"):
        client.delete_dataset(dataset_id)
    client.delete_dataset(dataset_id, force=True)
    assert not service.shelf.views

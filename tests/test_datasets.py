"""Data sets from upload to prediction, with a real worker; and archives that no good comes of."""

from __future__ import annotations

import base64
import io
import json
import struct
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zstandard
from fastapi.testclient import TestClient
from PIL import Image

from formats.datasets import TEST, Pack
from service.app import create_app
from specs.settings import Settings
from tests.conftest import LOOPBACK, new_home, running_worker, wait_for
from tests.ingest.hostile import HOSTILE
from tests.pictures import CLASSES, picture, picture_files, tar_of, zip_of
from tests.problems import problem_of
from workers.starting import PRELOADED_TO_READ

ENDED = {"ready", "failed"}


class Bench:
    """An API with a worker on one data folder, in a folder that has something to lose."""

    def __init__(self, api: TestClient, settings: Settings, worker: psutil.Process) -> None:
        self.api = api
        self.worker = worker
        self.home = settings.home
        self.outside = settings.home.parent

    def send(self, name: str, content: bytes, **spec: Any) -> str:
        """Makes a data set and sends its content; its id."""
        made = self.api.post("/v1/datasets", json={"name": name, **spec}).raise_for_status().json()
        sent = self.api.put(f"/v1/datasets/{made['id']}/content", content=content)
        assert sent.status_code == 202, sent.text
        return str(made["id"])

    def end(self, reference: str) -> dict[str, Any]:
        """The data set once it is ready or has failed."""

        def ended() -> dict[str, Any] | None:
            view: dict[str, Any] = self.api.get(f"/v1/datasets/{reference}").json()
            return view if view["status"] in ENDED else None

        found: dict[str, Any] = wait_for(ended, seconds=180)
        return found

    def bring(self, name: str, content: bytes, **spec: Any) -> dict[str, Any]:
        """A data set of this content, read to its end."""
        return self.end(self.send(name, content, **spec))

    def ready(self, name: str, content: bytes, **spec: Any) -> dict[str, Any]:
        """The same, which must be ready."""
        view = self.bring(name, content, **spec)
        assert view["status"] == "ready", view
        return view

    def run(self, **job: Any) -> dict[str, Any]:
        """A job that must succeed."""
        made = self.api.post("/v1/jobs", json=job).raise_for_status().json()

        def ended() -> dict[str, Any] | None:
            view: dict[str, Any] = self.api.get(f"/v1/jobs/{made['id']}").json()
            return view if view["status"] in {"succeeded", "failed", "cancelled"} else None

        view: dict[str, Any] = wait_for(ended, seconds=180)
        assert view["status"] == "succeeded", view
        return view

    def everything_outside(self) -> dict[str, bytes | None]:
        """Whatever lies around the data folder, with what is in it."""
        found = (path for path in self.outside.rglob("*") if self.home not in (path, *path.parents))
        return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(found)}

    def left_behind(self) -> list[str]:
        """Files of uploads and half-made data sets."""
        folders = ("uploads", "datasets", "arrays")
        paths = (path for folder in folders for path in (self.home / folder).glob("*"))
        return [path.name for path in paths if path.parent.name == "uploads" or path.name.startswith(".")]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    outside = tmp_path_factory.mktemp("bench")
    (outside / "canary").write_text("alive")
    (outside / "roots").mkdir()
    settings = new_home(outside / "home")
    roots = {"PRUNEYARD_DATA_ROOTS": str(outside / "roots")}
    allowed = settings.model_copy(update={"data_roots": (outside / "roots",)})
    with running_worker(settings, **roots) as worker, TestClient(create_app(allowed), base_url=LOOPBACK) as api:
        yield Bench(api, settings, psutil.Process(worker.pid))


@pytest.fixture(scope="module")
def pictures(bench: Bench) -> dict[str, Any]:
    """The data set `pictures`, ready: three classes of 20."""
    return bench.ready("pictures", zip_of(picture_files()))


def test_a_data_set_says_what_is_in_it(pictures: dict[str, Any]) -> None:
    assert pictures["classes"] == ["Zebra", "dog", "고양이"]
    assert pictures["images"] == 60
    assert pictures["class_images"] == {"Zebra": 20, "dog": 20, "고양이": 20}
    assert pictures["splits"] == {"train": 39, "validation": 9, "test": 12}
    assert pictures["class_splits"]["dog"] == {"train": 13, "validation": 3, "test": 4}
    assert (pictures["channels"], pictures["imbalance"], pictures["rejected"]) == (3, 1.0, [])
    assert pictures["sizes"]["median"] == [12, 12]
    assert len(pictures["mean"]) == len(pictures["std"]) == 3
    assert 0 < pictures["mean"][0] < 0.5
    assert pictures["fingerprint"].startswith("sha256:")
    assert (pictures["upload"], pictures["reason"]) == (None, None)
    assert pictures["ready_at"]


@pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")
def test_what_reads_data_sets_is_loaded_once_and_has_no_pytorch(bench: Bench, pictures: dict[str, Any]) -> None:
    (server,) = (child for child in bench.worker.children() if PRELOADED_TO_READ in " ".join(child.cmdline()))
    assert not any("torch" in file.path for file in server.memory_maps())
    assert bench.ready("read by another fork", zip_of(picture_files(3)))["images"] == 9
    assert server.is_running()


def test_a_data_set_is_seen(bench: Bench, pictures: dict[str, Any]) -> None:
    answer = bench.api.get("/v1/datasets/pictures/preview.png")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.height > 3 * 64
    page = bench.api.get("/v1/datasets/pictures/images", params={"limit": 5}).json()
    assert len(page["items"]) == 5
    rest = bench.api.get("/v1/datasets/pictures/images", params={"cursor": page["next_cursor"]}).json()
    items = page["items"] + rest["items"]
    assert (len(items), rest["next_cursor"]) == (12, None)
    for item in items:
        label, number = item["path"].removesuffix(".png").split("/")
        with Image.open(io.BytesIO(base64.b64decode(item["png"], validate=True))) as image:
            given = Image.open(io.BytesIO(picture(CLASSES.index(label), int(number))))
            assert (item["label"], np.asarray(image).tolist()) == (label, np.asarray(given).tolist())


@pytest.fixture(scope="module")
def trained(bench: Bench, pictures: dict[str, Any]) -> dict[str, Any]:
    """A model trained on the pictures."""
    ended = bench.run(
        kind="train",
        name="pictures mlp",
        dataset="pictures",
        architecture={"name": "mlp", "hidden": [32]},
        optimizer={"name": "adam", "lr": 0.01},
        epochs=8,
        batch_size=16,
    )
    model: dict[str, Any] = bench.api.get(f"/v1/models/{ended['result']['model']}").json()
    return model


def test_it_is_trained_pruned_and_served(bench: Bench, pictures: dict[str, Any], trained: dict[str, Any]) -> None:
    assert (trained["dataset"], trained["image_size"]) == (pictures["id"], pictures["image_size"])
    assert trained["classes"] == pictures["classes"]
    assert trained["metrics"]["test_accuracy"] == 1.0
    answer = bench.api.post(f"/v1/models/{trained['id']}/predict", content=picture(0, 999), headers=PNG).json()
    assert answer["predictions"][0]["label"] == "고양이"
    ended = bench.run(kind="prune", model=trained["id"], sparsity=0.5, fine_tune={"epochs": 1, "batch_size": 16})
    pruned = bench.api.get(f"/v1/models/{ended['result']['model']}").json()
    assert (pruned["dataset"], pruned["metrics"]["test_accuracy"]) == (pictures["id"], 1.0)


PNG = {"Content-Type": "image/png"}


def test_a_model_keeps_the_fingerprint_of_its_data(bench: Bench, pictures: dict[str, Any], trained: Any) -> None:
    manifest = json.loads((bench.home / "models" / trained["id"] / "model.json").read_bytes())
    assert manifest["dataset"] == {"id": pictures["id"], "fingerprint": pictures["fingerprint"]}
    digits = bench.run(
        kind="train", dataset="digits", architecture={"name": "mlp", "hidden": [8]}, epochs=1, image_size=8, seed=7
    )
    manifest = json.loads((bench.home / "models" / digits["result"]["model"] / "model.json").read_bytes())
    assert manifest["dataset"]["fingerprint"] == bench.api.get("/v1/datasets/digits").json()["fingerprint"]


def test_a_network_without_room_is_refused_before_images_are_decoded(bench: Bench, pictures: dict[str, Any]) -> None:
    job = {"kind": "train", "dataset": "pictures", "architecture": {"name": "mlp", "hidden": [16384] * 16}}
    made = bench.api.post("/v1/jobs", json={**job, "image_size": 500, "batch_size": 16}).raise_for_status().json()["id"]
    wait_for(lambda: bench.api.get(f"/v1/jobs/{made}").json()["status"] == "failed", seconds=60)
    assert bench.api.get(f"/v1/jobs/{made}").json()["reason"] == "out_of_memory"
    assert not (bench.home / "arrays" / f"{pictures['id']}-500-3").exists()


def test_decoded_images_are_kept_and_made_again_when_damaged(bench: Bench, trained: dict[str, Any]) -> None:
    array = bench.home / "arrays" / f"{trained['dataset']}-{trained['image_size']}-3"
    job = {"kind": "train", "dataset": "pictures", "architecture": "mlp", "epochs": 1, "batch_size": 16}
    made = (array / "pixels.u8").stat().st_ino
    first = bench.run(**job)["result"]["model"]
    assert (array / "pixels.u8").stat().st_ino == made
    good = (array / "pixels.u8").read_bytes()
    (array / "pixels.u8").write_bytes(bytes(len(good)))
    second = bench.run(**job)["result"]["model"]
    assert (array / "pixels.u8").read_bytes() == good
    weights = [bench.api.get(f"/v1/models/{model}").json()["weights_sha256"] for model in (first, second)]
    assert weights[0] == weights[1]


def test_a_data_set_in_use_is_not_deleted(bench: Bench, trained: dict[str, Any]) -> None:
    path = f"/v1/datasets/{trained['dataset']}"
    assert trained["dataset"] == bench.api.get(path).json()["id"]
    assert "force" in problem_of(bench.api.delete(path), 409)["detail"]


def test_what_needs_more_images_or_a_deleted_data_set_is_refused(bench: Bench) -> None:
    brought = bench.ready("short-lived", zip_of(picture_files(6)))
    # Nobody chose a batch size: the training split is smaller than the default.
    job = bench.run(kind="train", dataset="short-lived", architecture={"name": "mlp", "hidden": [8]}, epochs=1)
    assert job["spec"]["batch_size"] == brought["splits"]["train"]
    model = job["result"]["model"]
    error = problem_of(bench.api.post("/v1/jobs", json={"kind": "quantize", "model": model}), 422)["errors"][0]
    assert (error["pointer"], "calibration" in error["message"]) == ("#/model", True), "too few images to calibrate by"
    assert bench.api.delete(f"/v1/datasets/{brought['id']}", params={"force": True}).status_code == 204
    assert not list(bench.home.glob(f"*/{brought['id']}*"))
    error = problem_of(bench.api.post("/v1/jobs", json={"kind": "prune", "model": model}), 422)["errors"][0]
    assert (error["pointer"], "deleted" in error["message"]) == ("#/model", True)
    answer = bench.api.post(f"/v1/models/{model}/predict", content=picture(0, 999), headers=PNG)
    assert answer.status_code == 200


def test_damaged_files_of_a_data_set_are_told_without_their_place(bench: Bench) -> None:
    brought = bench.ready("damaged", zip_of(picture_files(9)))
    (bench.home / "datasets" / brought["id"] / "dataset.json").write_text("{}")
    made = bench.api.post("/v1/jobs", json={"kind": "train", "dataset": "damaged", "architecture": "mlp"}).json()
    ended = wait_for(lambda: (view := bench.api.get(f"/v1/jobs/{made['id']}").json())["finished_at"] and view)
    assert (ended["status"], ended["reason"]) == ("failed", "bad_data")
    assert f"{brought['id']} are damaged or gone: dataset.json cannot be read." in ended["message"]
    assert str(bench.home) not in ended["message"]


def test_lists_leave_out_what_grows_with_the_classes(bench: Bench, pictures: dict[str, Any]) -> None:
    items = bench.api.get("/v1/datasets", params={"limit": 500}).json()["items"]
    (item,) = [item for item in items if item["id"] == pictures["id"]]
    assert (item["class_count"], item["class_images"], item["class_splits"]) == (3, None, None)


def test_a_name_stands_for_its_newest_version(bench: Bench) -> None:
    first = bench.ready("versions", zip_of(picture_files(5)))
    second = bench.ready("versions", zip_of(picture_files(6)))
    failed = bench.bring("versions", b"nothing")
    assert [view["version"] for view in (first, second, failed)] == [1, 2, 3]
    assert bench.api.get("/v1/datasets/versions").json()["id"] == second["id"]
    assert bench.api.get(f"/v1/datasets/{first['id']}").json()["images"] == 15
    assert bench.api.delete(f"/v1/datasets/{second['id']}").status_code == 204
    assert not (bench.home / "datasets" / second["id"]).exists()
    assert bench.api.get("/v1/datasets/versions").json()["id"] == first["id"]


def test_packing_does_not_matter(bench: Bench, pictures: dict[str, Any]) -> None:
    """Nor do names and order; more ways to pack are read by tests/ingest."""
    view = bench.ready("packed otherwise", zstandard.compress(tar_of(picture_files())))
    same = ("fingerprint", "classes", "class_splits", "mean", "std", "sizes", "duplicates", "rejected_count")
    assert {name: view[name] for name in same} == {name: pictures[name] for name in same}
    assert contents_that_test(bench, view["id"]) == contents_that_test(bench, pictures["id"])


def test_a_zip_that_is_called_a_tar_is_read_as_what_it_is(bench: Bench, pictures: dict[str, Any]) -> None:
    made = bench.api.post("/v1/datasets", json={"name": "renamed.tar"}).json()
    headers = {"Content-Type": "application/x-tar"}
    path = f"/v1/datasets/{made['id']}/content"
    assert bench.api.put(path, content=zip_of(picture_files()), headers=headers).status_code == 202
    assert bench.end(made["id"])["fingerprint"] == pictures["fingerprint"]


def contents_that_test(bench: Bench, dataset_id: str) -> list[bytes]:
    with Pack(bench.home / "datasets" / dataset_id) as pack:
        return [pack.index.pixel_sha256[number].tobytes() for number in pack.index.numbers(TEST)]


def test_given_splits_are_kept(bench: Bench) -> None:
    files = {**picture_files(9, prefix="train/"), **picture_files(4, prefix="val/", first=100)}
    files |= picture_files(3, prefix="test/", first=200)
    view = bench.ready("given", tar_of(files))
    assert (view["splits_from"], view["splits"]) == ("given", {"train": 27, "validation": 12, "test": 9})
    with Pack(bench.home / "datasets" / view["id"]) as pack:
        paths = list(pack.paths())
        assert {paths[number].split("/")[0] for number in pack.index.numbers(TEST)} == {"test"}


def test_a_test_image_that_also_trains_is_left_out_of_training(bench: Bench) -> None:
    files = {**picture_files(9, prefix="train/"), **picture_files(3, prefix="test/", first=200)}
    files["train/dog/leak.png"] = files["test/dog/000.png"]
    files["train/Zebra/other.png"] = files["test/dog/001.png"]
    files["train/dog/twice.png"] = files["train/dog/000.png"]
    view = bench.ready("leaky", zip_of(files))
    assert view["images"] == 39
    assert view["conflicts"]["left_out"] == 2
    assert (view["conflicts"]["splits"], view["conflicts"]["labels"]) == (2, 1)
    assert (view["duplicates"]["same_bytes"], view["duplicates"]["same_pixels"]) == (3, 3)
    assert sum(view["splits"].values()) == 37


def test_a_manifest_says_what_is_what(bench: Bench) -> None:
    files = {f"images/{number:03}": data for number, data in enumerate(picture_files(6).values())}
    rows = [
        f"{path},{CLASSES[number // 6]},{'test' if number % 6 == 0 else 'train'}" for number, path in enumerate(files)
    ]
    view = bench.ready("by csv", zip_of({"manifest.csv": "\n".join(["path,label,split", *rows]).encode(), **files}))
    assert view["class_images"] == dict.fromkeys(sorted(CLASSES), 6)
    assert view["splits"]["test"] == 3


def test_a_folder_of_this_machine_is_read(bench: Bench) -> None:
    folder = bench.outside / "roots" / "cats"
    for path, data in picture_files(5).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / "dog" / "canary.png").symlink_to(bench.outside / "canary")
    before = bench.everything_outside()
    body = {"name": "from folder", "source": {"kind": "folder", "path": str(folder)}, "max_rejected": 0.1}
    view = bench.end(bench.api.post("/v1/datasets", json=body).raise_for_status().json()["id"])
    assert (view["status"], view["images"]) == ("ready", 15)
    assert [(item["path"], item["reason"]) for item in view["rejected"]] == [("dog/canary.png", "not_a_regular_file")]
    assert bench.everything_outside() == before


def test_each_rejected_file_is_listed_with_its_reason(bench: Bench) -> None:
    bad = {
        "dog/empty.png": (b"", "empty"),
        "dog/page.png": (b"<html><script>alert(1)</script></html>", "format_not_allowed"),
        "dog/drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format_not_allowed"),
        "dog/print.png": (b"%PDF-1.7\n", "format_not_allowed"),
        "dog/post.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "format_not_allowed"),
        "dog/photo.png": (b"8BPS\0\1" + bytes(40), "format_not_allowed"),
        "dog/stars.png": (b"SIMPLE  =                    T" + bytes(2880), "format_not_allowed"),
        "dog/cut.jpg": (picture(1, 5, size=64, kind="JPEG")[:-200], "truncated"),
        "dog/archive.png": (zip_of({"a": b"b"}), "format_not_allowed"),
        "dog/huge.png": (huge_png(), "too_large"),
    }
    files = {**picture_files(10), **{path: data for path, (data, _) in bad.items()}}
    view = bench.bring("strict", zip_of(files))
    assert (view["status"], view["reason"]) == ("failed", "too_many_rejected")
    wanted = {path: reason for path, (_, reason) in bad.items()}
    assert {item["path"]: item["reason"] for item in view["rejected"]} == wanted
    assert all(item["message"] for item in view["rejected"])
    view = bench.ready("lenient", zip_of(files), max_rejected=0.5)
    assert {item["path"]: item["reason"] for item in view["rejected"]} == wanted
    assert (view["images"], view["rejected_count"]) == (30, len(bad))


def huge_png() -> bytes:
    """2.5 gigapixels in 300 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = 50_000
    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    body = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_what_makes_no_data_set_says_why(bench: Bench) -> None:
    view = bench.bring("unfit", zip_of({**picture_files(5), "cat/1.png": picture(0, 77)}))
    assert (view["status"], view["reason"]) == ("failed", "too_few_images"), view
    assert "cat" in view["message"]
    job = bench.api.get(f"/v1/jobs/{view['job']}").json()
    assert (job["status"], job["reason"], job["message"]) == ("failed", view["reason"], view["message"])


# For each way to do harm: by size, by number, by place. All of them, and many more, are read by tests/ingest: there
# each takes no process of its own.
OVER_HTTP = ["zip_bomb", "tar_zst_bomb", "zip_million", "tar_through_symlink", "zip_name_climbing", "half_of_tar_zst"]


@pytest.fixture(scope="module")
def hostile(bench: Bench) -> dict[str, Any]:
    """All hostile archives, sent to the worker; what became of each; and what lay around before and after."""
    before = bench.everything_outside()
    chosen = {name: HOSTILE[name] for name in OVER_HTTP}
    sent = {name: bench.send(f"hostile {name}", build()) for name, (build, _) in chosen.items()}
    views = {name: bench.end(dataset_id) for name, dataset_id in sent.items()}
    return {"views": views, "before": before, "after": bench.everything_outside()}


@pytest.mark.parametrize("name", OVER_HTTP)
def test_a_hostile_archive_fails_with_its_reason(hostile: dict[str, Any], name: str) -> None:
    view = hostile["views"][name]
    assert (view["status"], view["reason"]) == ("failed", HOSTILE[name][1]), view
    assert view["message"]
    assert view["images"] is None


def test_hostile_archives_leave_nothing_behind(bench: Bench, hostile: dict[str, Any]) -> None:
    assert hostile["after"] == hostile["before"]
    assert (bench.outside / "canary").read_text() == "alive"
    wait_for(lambda: not bench.left_behind())
    listed = bench.api.get("/v1/datasets", params={"limit": 500}).json()["items"]
    ready = {item["id"] for item in listed if item["status"] == "ready"}
    assert not ready & {view["id"] for view in hostile["views"].values()}
    assert {path.name for path in (bench.home / "datasets").iterdir()} == ready - {"ds_digits"}
    assert bench.ready("after", zip_of(picture_files()))["images"] == 60


def test_two_uploads_at_once(bench: Bench) -> None:
    views: dict[int, dict[str, Any]] = {}

    def bring(number: int) -> None:
        views[number] = bench.bring(f"at once {number % 2}", zip_of(picture_files(4 + number)))

    threads = [threading.Thread(target=bring, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: view["images"] for number, view in views.items()} == {n: 3 * (4 + n) for n in range(4)}
    assert sorted((view["name"], view["version"]) for view in views.values()) == [
        (f"at once {parity}", version) for parity in (0, 1) for version in (1, 2)
    ]


MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist-t10k"


@pytest.mark.skipif(not MNIST.is_dir(), reason="the MNIST files are not here")
def test_files_placed_by_hand_are_found(bench: Bench) -> None:
    folder = bench.home / "downloads" / "mnist"
    folder.mkdir(parents=True, exist_ok=True)
    for path in MNIST.glob("*.gz"):
        (folder / path.name).write_bytes(path.read_bytes())
    body = {"name": "mnist", "source": {"kind": "torchvision", "name": "mnist"}}
    view = bench.end(bench.api.post("/v1/datasets", json=body).raise_for_status().json()["id"])
    assert (view["status"], view["images"]) == ("ready", 10_000), view
    assert (view["classes"], view["channels"], view["image_size"]) == (list("0123456789"), 1, 28)
    assert view["warnings"]
    assert view["splits"]["test"] == 2000


def test_a_limit_on_uploads_is_none_on_the_database(tmp_path: Path) -> None:
    """Which is a file of the process that reads, too."""
    settings = new_home(tmp_path / "home").model_copy(update={"max_upload_bytes": 65536})
    worker = running_worker(settings, PRUNEYARD_MAX_UPLOAD_BYTES="65536")
    with worker as process, TestClient(create_app(settings), base_url=LOOPBACK) as api:
        bench = Bench(api, settings, psutil.Process(process.pid))
        assert (settings.home / "pruneyard.db").stat().st_size > 65536
        for number in range(3):
            bench.ready(f"small {number}", zip_of(picture_files(4)))

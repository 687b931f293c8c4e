"""Predictions over HTTP: every form of body, every kind of image, and everything that is not one."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from formats.images import MAX_SIDE
from service import examples
from service.app import create_app
from service.explainer import MOST_WAITING
from service.routes.predict import respond
from service.uploads import PIECE, read_upload
from specs.settings import Settings
from tests.conftest import LOOPBACK, png
from tests.problems import problem_of

PNG = {"content-type": "image/png"}
MODELS = ("tiny", "tiny pruned")


def labels_of(response: Any) -> list[str]:
    """The most probable label of each image."""
    assert response.status_code == 200, response.text
    return [prediction["label"] for prediction in response.json()["predictions"]]


@pytest.fixture
def seven(test_digits: list[tuple[bytes, str]]) -> bytes:
    """A PNG of a handwritten seven."""
    return next(data for data, label in test_digits if label == "7")


@pytest.mark.parametrize("name", MODELS)
def test_the_models_know_digits_they_never_saw(
    trained_api: TestClient, test_digits: list[tuple[bytes, str]], name: str
) -> None:
    right = 0
    for start in range(0, len(test_digits), 100):
        part = test_digits[start : start + 100]
        response = trained_api.post(f"/v1/models/{name}/predict", files=[("image", data) for data, _ in part])
        right += sum(given == label for given, (_, label) in zip(labels_of(response), part, strict=True))
    stored = trained_api.get(f"/v1/models/{name}").json()["metrics"]["test_accuracy"]
    assert right / len(test_digits) == pytest.approx(stored, abs=0.5 / len(test_digits))
    assert stored > 0.9


def test_all_forms_of_body_give_the_same_answer(trained_api: TestClient, seven: bytes) -> None:
    address = "/v1/models/tiny/predict?top_k=3"
    pixels = np.asarray(Image.open(io.BytesIO(seven))).tobytes()
    raw = {"content-type": "application/octet-stream", "x-shape": "1,8,8,1"}
    responses = [
        trained_api.post(address, content=seven, headers=PNG),
        trained_api.post(address, files={"image": seven}),
        trained_api.post(address, json={"images": [base64.b64encode(seven).decode()]}),
        trained_api.post(address, content=pixels, headers=raw),
    ]
    answers = [response.json() for response in responses]
    assert all(answer == answers[0] for answer in answers), answers
    prediction = answers[0]["predictions"][0]
    assert answers[0]["model"] == trained_api.get("/v1/models/tiny").json()["id"]
    assert prediction["label"] == "7"
    assert len(prediction["top"]) == 3
    assert prediction["top"][0] == {key: prediction[key] for key in ("label", "index", "probability")}
    probabilities = [answer["probability"] for answer in prediction["top"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) <= 1 + 1e-9


def test_the_example_of_the_docs_page_is_answered(trained_api: TestClient) -> None:
    assert labels_of(trained_api.post("/v1/models/tiny/predict", json={"images": [examples.PNG_BASE64]})) == ["0"]


def test_probabilities_of_all_classes_add_up_to_one(trained_api: TestClient, seven: bytes) -> None:
    response = trained_api.post("/v1/models/tiny/predict?top_k=1000", content=seven, headers=PNG)
    top = response.json()["predictions"][0]["top"]
    assert sorted(answer["label"] for answer in top) == list("0123456789")
    assert sum(answer["probability"] for answer in top) == pytest.approx(1)


def _grey(data: bytes) -> Image.Image:
    """The image at four times its size, so that lossy formats keep it."""
    return Image.open(io.BytesIO(data)).resize((32, 32), Image.Resampling.NEAREST)


def _rotated(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    return png(image.rotate(90), kind="JPEG", exif=exif, quality=100)


def _cmyk(image: Image.Image) -> bytes:
    return png(
        Image.merge("CMYK", [Image.new("L", image.size)] * 3 + [ImageOps.invert(image)]), kind="JPEG", quality=100
    )


def _alpha(image: Image.Image) -> bytes:
    return png(Image.merge("LA", [Image.new("L", image.size, 255), image]))


FORMS: dict[str, Callable[[Image.Image], bytes]] = {
    "grey": png,
    "rgb": lambda image: png(image.convert("RGB")),
    "palette": lambda image: png(image.convert("P")),
    "palette gif": lambda image: png(image.convert("P"), kind="GIF"),
    "one bit": lambda image: png(image.convert("1", dither=Image.Dither.NONE)),
    "alpha": _alpha,
    "rgba": lambda image: png(image.convert("RGBA")),
    "16 bit": lambda image: png(Image.fromarray(np.asarray(image).astype(np.uint16) * 257)),
    "jpeg": lambda image: png(image, kind="JPEG", quality=95),
    "cmyk": _cmyk,
    "exif rotated": _rotated,
    "webp": lambda image: png(image.convert("RGB"), kind="WEBP", lossless=True),
    "bmp": lambda image: png(image, kind="BMP"),
    "large": lambda image: png(image.resize((640, 640), Image.Resampling.NEAREST)),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_every_kind_of_image_is_read_by_the_same_rule(trained_api: TestClient, seven: bytes, form: str) -> None:
    data = FORMS[form](_grey(seven))
    assert labels_of(trained_api.post("/v1/models/tiny/predict", content=data, headers=PNG)) == ["7"]


@cache
def _bomb() -> bytes:
    """A valid PNG of 50,000 x 50,000 black pixels of one bit: 2.5 billion of them in some 300 kB."""
    rows = zlib.compressobj(1)
    row = bytes(1 + 50_000 // 8)
    data = b"".join(rows.compress(row * 1000) for _ in range(50)) + rows.flush()
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


BAD_IMAGES: dict[str, tuple[Callable[[bytes], bytes], int, str]] = {
    "empty": (lambda _: b"", 422, "empty"),
    "truncated": (lambda data: data[:70], 422, "truncated"),
    "truncated jpeg": (lambda data: png(_grey(data), kind="JPEG")[:-80], 422, "truncated"),
    "text": (lambda _: b"this is not an image", 415, "format_not_allowed"),
    "a megabyte of json": (lambda _: b'{"images": ["' + b"A" * 1_000_000 + b'"]}', 415, "format_not_allowed"),
    "svg": (lambda _: b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "format_not_allowed"),
    "tiff": (lambda data: png(_grey(data), kind="TIFF"), 415, "format_not_allowed"),
    "pdf": (lambda data: png(_grey(data), kind="PDF"), 415, "format_not_allowed"),
    "postscript": (lambda data: png(_grey(data), kind="EPS"), 415, "format_not_allowed"),
    "bomb": (lambda _: _bomb(), 422, "too_large"),
    "over the limit": (lambda _: png(Image.new("1", (10_000, 5_001))), 422, "too_large"),
    "without its palette": (lambda _: without_palette(), 422, "truncated"),
    "scans without end": (lambda data: many_scans(data, 101), 422, "too_large"),
    "scans of several pictures": (lambda data: many_scans(data, 101, kind="MPO"), 422, "too_large"),
    "scans behind a marker without a length": (lambda data: hidden_scans(data, b"\xff\xff"), 422, "too_large"),
    "scans behind an end that is none": (
        lambda data: hidden_scans(data, b"\x00\x06\xff\xfe\x00\x04\xff\xd9"),
        422,
        "too_large",
    ),
    "runs": (lambda _: runs(1025, 1024), 422, "too_large"),
}


def without_palette() -> bytes:
    """A PNG whose pixels are numbers of colours that are not told."""
    data = png(Image.new("P", (8, 8)))
    at, after = data.index(b"PLTE") - 4, data.index(b"IDAT") - 4
    return data[:at] + data[after:]


def many_scans(data: bytes, count: int, *, kind: str = "JPEG") -> bytes:
    """A progressive JPEG whose last scan comes again and again; an MPO is several JPEGs in one file."""
    more_of_them = {"save_all": True, "append_images": [_grey(data)]} if kind == "MPO" else {}
    jpeg = png(_grey(data), kind=kind, progressive=True, **more_of_them)
    end = jpeg.index(b"\xff\xd9")
    last = jpeg.rindex(b"\xff\xda", 0, end)
    more = count - jpeg.count(b"\xff\xda", 0, end)
    return jpeg[:end] + jpeg[last:end] * more + jpeg[end:]


def hidden_scans(data: bytes, after: bytes) -> bytes:
    """A JPEG with restarts, in which a decoder passes over a marker of no meaning, and with it nothing that follows."""
    jpeg = png(_grey(data), kind="JPEG", progressive=True, restart_marker_rows=1)
    last, end = jpeg.rindex(b"\xff\xda"), jpeg.rindex(b"\xff\xd9")
    head = jpeg[last : last + 2 + int.from_bytes(jpeg[last + 2 : last + 4], "big")]
    return jpeg[:end] + head + b"\xff\x02" + after + head * 101 + jpeg[end:]


def runs(width: int, height: int) -> bytes:
    """A BMP of runs: of each line one pixel, and its end."""
    lines = b"\x01\x05\x00\x00" * height + b"\x00\x01"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(lines), 0, 0, 256, 0)
    start = 14 + len(header) + 1024
    return struct.pack("<2sIHHI", b"BM", start + len(lines), 0, 0, start) + header + bytes(1024) + lines


@pytest.mark.parametrize("name", list(BAD_IMAGES))
def test_what_is_no_image_is_refused_and_the_next_is_answered(trained_api: TestClient, seven: bytes, name: str) -> None:
    spoil, status, reason = BAD_IMAGES[name]
    good = trained_api.post("/v1/models/tiny/predict", content=seven, headers=PNG).json()
    bad = spoil(seven)
    assert (
        problem_of(trained_api.post("/v1/models/tiny/predict", content=bad, headers=PNG), status, "#")["reason"]
        == reason
    )
    in_form = trained_api.post("/v1/models/tiny/predict", files=[("image", seven), ("image", bad)])
    problem_of(in_form, status, "#/images/1")
    in_json = {"images": [base64.b64encode(data).decode() for data in (bad, seven)]}
    problem_of(trained_api.post("/v1/models/tiny/predict", json=in_json), status, "#/images/0")
    assert trained_api.post("/v1/models/tiny/predict", content=seven, headers=PNG).json() == good


def test_images_with_some_scans_and_small_ones_of_runs_are_answered(trained_api: TestClient, seven: bytes) -> None:
    film = bytes(4) + b"\xff\xda" * 200
    for data in (
        many_scans(seven, 100),
        many_scans(seven, 100, kind="MPO"),
        many_scans(seven, 90) + film,
        runs(64, 64),
    ):
        response = trained_api.post("/v1/models/tiny/predict", content=data, headers=PNG)
        assert response.status_code == 200, response.text


def test_what_is_packed_in_an_image_is_not_unpacked_where_all_wait(
    trained_api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    original = Image.open

    def note(file: Any, *rest: Any, **options: Any) -> Any:
        opened.append(threading.current_thread().name)
        return original(file, *rest, **options)

    monkeypatch.setattr(Image, "open", note)
    texts = PngInfo()
    texts.add_text("a", "x" * 500_000, zip=True)
    data = png(Image.new("L", (8, 8)), pnginfo=texts)
    assert len(data) < 2_000
    for content, elsewhere in ((data, True), (png(Image.new("L", (8, 8))), False)):
        opened.clear()
        assert trained_api.post("/v1/models/tiny/predict", content=content, headers=PNG).status_code == 200
        assert [name.startswith("decode") for name in opened] == [elsewhere] * len(opened) != []


def test_bodies_that_were_refused_are_let_go(trained_api: TestClient) -> None:
    process, body = psutil.Process(), b'{"x": "' + b"!" * 8_000_000 + b'"}'
    headers = {"content-type": "application/json"}
    gc.disable()
    try:
        for number in range(40):
            problem_of(trained_api.post("/v1/models/tiny/predict", content=body, headers=headers), 422)
            if number == 9:
                before = process.memory_info().rss
        grown = process.memory_info().rss - before
    finally:
        gc.enable()
    assert grown < 10 * len(body), "of thirty bodies"


def test_the_pixels_of_a_request_are_limited_in_all(trained_api: TestClient, seven: bytes) -> None:
    large = png(Image.new("1", (6000, 6000)))
    assert trained_api.post("/v1/models/tiny/predict", content=large, headers=PNG).status_code == 200
    several = trained_api.post("/v1/models/tiny/predict", files=[("image", data) for data in (large, seven, large)])
    assert problem_of(several, 422, "#/images/2")["reason"] == "too_large"


def test_half_a_character_is_no_text(trained_api: TestClient) -> None:
    headers = {"content-type": "application/json"}
    problem_of(trained_api.post("/v1/models/tiny/predict", content=b'{"\\ud800":1}', headers=headers), 422)
    problem_of(trained_api.put("/v1/aliases/x", content=b'{"\\ud800":1}', headers=headers), 400)
    problem_of(trained_api.post("/v1/models/tiny/predict", content=b'{"images":["\\ud800"]}', headers=headers), 422)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"{", "#"),
        (b"[" * 100_000, "#"),
        (b"[]", "#"),
        (b"{}", "#/images"),
        (b'{"images": []}', "#/images"),
        (b'{"images": "abc"}', "#/images"),
        (b'{"images": [7]}', "#/images/0"),
        (b'{"images": ["#"]}', "#/images/0"),
        (b'{"images": ["http://127.0.0.1:1/x.png"]}', "#/images/0"),
        (b'{"images": ["\\u00e9"]}', "#/images/0"),
        (b'{"image": []}', "#/image"),
        (b'{"images": [' + b'"",' * 256 + b'""]}', "#/images"),
    ],
)
def test_a_bad_json_body_is_refused(trained_api: TestClient, body: bytes, pointer: str) -> None:
    response = trained_api.post("/v1/models/tiny/predict", content=body, headers={"content-type": "application/json"})
    problem_of(response, 422, pointer)


@pytest.mark.parametrize(
    "shape", [None, "1,8,8", "1,8,8,2", "1,8,9,1", "0,8,8,1", "-1,8,8,1", "1e9,8,8,1", "999999999,9,9,1"]
)
def test_raw_pixels_need_a_shape_that_fits(trained_api: TestClient, shape: str | None) -> None:
    headers = {"content-type": "application/octet-stream"} | ({"x-shape": shape} if shape else {})
    problem_of(trained_api.post("/v1/models/tiny/predict", content=bytes(64), headers=headers), 422, "#")


def test_raw_pixels_of_a_long_side_are_refused(trained_api: TestClient) -> None:
    for side, status in ((MAX_SIDE + 1, 422), (MAX_SIDE, 200)):
        for shape in (f"1,1,{side},1", f"1,{side},1,1"):
            headers = {"content-type": "application/octet-stream", "x-shape": shape}
            given = trained_api.post("/v1/models/tiny/predict", content=bytes(side), headers=headers)
            assert given.status_code == status
            assert status == 200 or "65,535" in problem_of(given, 422, "#")["errors"][0]["message"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-python-pickle", "", "application/pdf"])
def test_another_content_type_is_refused(trained_api: TestClient, seven: bytes, content_type: str) -> None:
    response = trained_api.post("/v1/models/tiny/predict", content=seven, headers={"content-type": content_type})
    assert "image/png" in problem_of(response, 415)["detail"]


def test_a_broken_form_is_refused(trained_api: TestClient) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for body in (b"", b"--x\r\nnonsense", b"\r\n" * 100_000, b"--x--\r\n"):
        response = trained_api.post("/v1/models/tiny/predict", content=body, headers=headers)
        problem_of(response, response.status_code)
        assert response.status_code in {400, 422}
    response = trained_api.post(
        "/v1/models/tiny/predict", content=b"x", headers={"content-type": "multipart/form-data"}
    )
    assert response.status_code in {400, 422}
    problem_of(response, response.status_code)


@pytest.mark.parametrize("charset", ["undefined", "idna"])
def test_a_charset_that_decodes_nothing_is_refused(trained_api: TestClient, seven: bytes, charset: str) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="xn--0000000"; filename="7"\r\n\r\n%b\r\n--x--\r\n' % seven
    headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    response = trained_api.post("/v1/models/tiny/predict", content=body, headers=headers)
    assert "charset" in problem_of(response, 400)["detail"]


async def turns_during(work: Awaitable[Any]) -> int:
    """How often others had their turn before this was done."""
    task, turns = asyncio.ensure_future(work), 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    await task
    return turns


@pytest.mark.parametrize("size", [5, PIECE])
def test_others_go_on_while_much_json_is_read(size: int) -> None:
    files = [b"a" * size, b"b" * size]
    body = json.dumps({"images": [base64.b64encode(data).decode() for data in files]}).encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def read() -> None:
        scope = {"type": "http", "headers": [(b"content-type", b"application/json")]}
        assert list((await read_upload(Request(scope, receive))).files) == files

    turns = asyncio.run(turns_during(read()))
    assert turns > 1 if size == PIECE else turns == 1


def test_base64_ends_once(trained_api: TestClient) -> None:
    """Also where it is read in pieces, each of which may end."""
    for text in ("QQ==QQ==", "A" * (PIECE - 4) + "QQ==" + "A" * 8, "Q" * (PIECE + 1), "=" * 4, "QQ=A"):
        response = trained_api.post("/v1/models/tiny/predict", json={"images": [text]})
        assert problem_of(response, 422, "#/images/0")["errors"][0]["message"] == "This is not base64."


@pytest.mark.parametrize("images", [1, 40])
def test_others_go_on_while_many_answers_are_written(images: int) -> None:
    top = [{"label": "고양이", "index": number, "probability": number / 7} for number in range(100)]
    answer = {"model": "mdl_1", "predictions": [{"label": "é", "top": top}] * images, "coverage": 0.9}

    async def write() -> None:
        response = await respond(answer)
        assert json.loads(bytes(response.body)) == answer
        assert response.headers["content-type"] == "application/json"

    turns = asyncio.run(turns_during(write()))
    assert turns > 1 if images > 1 else turns == 1


def test_many_answers_are_the_same_as_few(trained_api: TestClient, test_digits: list[tuple[bytes, str]]) -> None:
    address = "/v1/models/tiny/predict?top_k=1000"
    images = [data for data, _ in test_digits[:250]]
    many = trained_api.post(address, files=[("image", data) for data in images]).json()
    for number in (0, 249):
        (one,) = trained_api.post(address, content=images[number], headers=PNG).json()["predictions"]
        assert [top["label"] for top in one["top"][:2]] == [
            top["label"] for top in many["predictions"][number]["top"][:2]
        ]
    body = {"images": [base64.b64encode(data).decode() for data in images]}
    assert trained_api.post(address, json=body).json() == many


@pytest.mark.parametrize("path", ["/v1/models/tiny/predict", "/v2/models/tiny/infer", "/v1/models/tiny/explain"])
def test_more_than_can_wait_are_asked_to_come_again(trained_settings: Settings, seven: bytes, path: str) -> None:
    app = create_app(trained_settings.model_copy(update={"max_queued_images": 1}))
    tensor = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(seven).decode()]}
    body: dict[str, Any] = {"json": {"inputs": [tensor]}} if "v2" in path else {"content": seven, "headers": PNG}

    async def crowd() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=LOOPBACK) as client:
            return await asyncio.gather(*(client.post(path, **body) for _ in range(3 * MOST_WAITING)))

    with TestClient(app, base_url=LOOPBACK) as api:
        assert api.post(path, **body).status_code == 200
        assert api.portal is not None
        answers = api.portal.call(crowd)
        assert {answer.status_code for answer in answers} == {200, 429}
        for answer in answers:
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                assert "wait" in answer.text
        assert api.post(path, **body).status_code == 200
        if path == "/v1/models/tiny/predict":
            many = api.post(path, json={"images": [base64.b64encode(seven).decode()] * 40})
            assert "1 to 1 images" in problem_of(many, 413)["detail"]


@pytest.mark.parametrize("reference", ["nobody", "mdl_0", "..%2f..%2fetc%2fpasswd", "%00", "a%0ab", "x" * 10_000])
def test_an_unknown_model_is_not_found(trained_api: TestClient, seven: bytes, reference: str) -> None:
    problem_of(trained_api.post(f"/v1/models/{reference}/predict", content=seven, headers=PNG), 404)


def test_a_model_that_still_trains_is_not_ready(trained_api: TestClient, seven: bytes) -> None:
    body = {"kind": "train", "name": "later", "dataset": "digits", "architecture": "mlp"}
    job = trained_api.post("/v1/jobs", json=body).json()
    for reference in ("later", job["id"]):
        found = problem_of(trained_api.post(f"/v1/models/{reference}/predict", content=seven, headers=PNG), 409)
        assert job["id"] in found["detail"]
    trained_api.post(f"/v1/jobs/{job['id']}/cancel")
    problem_of(trained_api.post("/v1/models/later/predict", content=seven, headers=PNG), 409)


@pytest.mark.parametrize("top_k", ["0", "-1", "x", "1001"])
def test_a_bad_top_k_is_refused(trained_api: TestClient, seven: bytes, top_k: str) -> None:
    response = trained_api.post(f"/v1/models/tiny/predict?top_k={top_k}", content=seven, headers=PNG)
    problem_of(response, 422, "query:top_k")


def test_the_api_process_has_no_torch_after_a_prediction(trained_settings: Settings, seven: bytes) -> None:
    """In a process of its own: the one that runs the tests may have imported torch for others."""
    program = (
        "import sys\n"
        "from fastapi.testclient import TestClient\n"
        "from service.app import create_app\n"
        "from specs.settings import Settings\n"
        f"with TestClient(create_app(Settings()), base_url={LOOPBACK!r}) as api:\n"
        "    image, headers = sys.stdin.buffer.read(), {'content-type': 'image/png'}\n"
        "    answer = api.post('/v1/models/tiny/predict', content=image, headers=headers)\n"
        "    assert answer.json()['predictions'][0]['label'] == '7', answer.text\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'torch', 'torchvision', 'sklearn', 'nets', 'workers'}, loaded\n"
    )
    environment = {"PRUNEYARD_HOME": str(trained_settings.home)}
    subprocess.run([sys.executable, "-c", program], input=seven, check=True, env=environment)

"""The Open Inference Protocol by plain HTTP: what the docs page shows, and bodies that mean harm."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from formats.images import MAX_SIDE
from service import examples
from service.app import create_app
from service.protocol import bodies
from specs.settings import Settings
from tests.conftest import LOOPBACK, png
from tests.problems import refusal_of

INFER = "/v2/models/tiny/infer"
HEADER = "inference-header-content-length"
PNG = base64.b64decode(examples.PNG_BASE64)
ZEROS = {"name": "images", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.0] * 64}


def binary(raw: bytes, *, size: Any = ..., length: Any = None, **changes: Any) -> tuple[bytes, dict[str, str]]:
    """A body and headers with raw values after the JSON; what is changed may lie."""
    given: dict[str, Any] = {"name": "images", "shape": [1, 1, 8, 8], "datatype": "FP32", **changes}
    if size is not None:
        given["parameters"] = {"binary_data_size": len(raw) if size is ... else size}
    text = json.dumps({"inputs": [given]}).encode()
    return text + raw, {HEADER: str(len(text) if length is None else length)}


def elements(*parts: bytes) -> bytes:
    """A BYTES tensor as raw bytes."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def answered(api: TestClient) -> list[float]:
    """The logits of a good request."""
    response = api.post(INFER, json={"inputs": [ZEROS]})
    assert response.status_code == 200, response.text
    (output,) = response.json()["outputs"]
    assert output["shape"] == [1, 10]
    return list(output["data"])


def sent(api: TestClient, **changes: Any) -> Any:
    """The answer to a request in JSON whose input is changed so."""
    return api.post(INFER, json={"inputs": [{**ZEROS, **changes}]})


def operations(api: TestClient) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What the docs page lists under the protocol's tag."""
    for path, methods in api.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            if operation.get("tags") == ["open inference protocol"]:
                yield path, method, operation


def test_every_route_is_on_the_docs_page_and_its_examples_work(trained_api: TestClient) -> None:
    seen = set()
    for path, method, operation in operations(trained_api):
        seen.add(path)
        assert "application/json" in operation["responses"]["4XX"]["content"]
        assert list(operation["responses"]["4XX"]["content"]) == ["application/json"]
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {"examples": {}})
        address = path.replace("{model}", "tiny").replace("{version}", "1")
        for body in [example["value"] for example in content["examples"].values()] or [None]:
            response = trained_api.request(method, address, json=body)
            assert response.status_code == 200, response.text
    assert seen >= {"/v2", "/v2/health/live", "/v2/health/ready", "/v2/repository/index", "/v2/models/stats"}
    for route in ("", "/infer", "/config", "/ready", "/stats"):
        assert seen >= {"/v2/models/{model}" + route, "/v2/models/{model}/versions/{version}" + route}


def test_the_examples_know_a_nought(trained_api: TestClient) -> None:
    named = trained_api.post(INFER, json=bodies.INFER["three most probable classes"]["value"]).json()
    assert named["id"] == "42"
    assert len(named["outputs"][0]["data"]) == 3
    assert named["outputs"][0]["data"][0].endswith(":0:0")
    pixels = trained_api.post(INFER, json=bodies.INFER["pixels"]["value"]).json()
    assert np.argmax(pixels["outputs"][0]["data"]) == 0
    plain = trained_api.post(INFER, json=bodies.INFER["an image file"]["value"]).json()
    assert [output["name"] for output in plain["outputs"]] == ["logits"]
    assert "id" not in plain


def test_data_may_be_nested_or_flat_and_bytes_may_go_without_a_size(trained_api: TestClient) -> None:
    values = np.linspace(-1, 1, 2 * 64, dtype=np.float32).reshape(2, 1, 8, 8)
    body, headers = binary(values.tobytes(), shape=[2, 1, 8, 8])
    responses = [
        sent(trained_api, shape=[2, 1, 8, 8], data=values.tolist()),
        sent(trained_api, shape=[2, 1, 8, 8], data=values.ravel().tolist()),
        trained_api.post(INFER, content=body, headers=headers),
    ]
    found = [response.json()["outputs"][0]["data"] for response in responses]
    assert found[0] == found[1] == found[2]
    files = [trained_api.post(INFER, json={"inputs": [bodies.PNG_TENSOR]})]
    for size in (..., None):
        body, headers = binary(elements(PNG), size=size, shape=[1], datatype="BYTES")
        files.append(trained_api.post(INFER, content=body, headers=headers))
    assert len({response.text for response in files}) == 1


def test_pixels_of_any_size_are_brought_to_the_models(trained_api: TestClient) -> None:
    grey = np.array(bodies.PIXELS, dtype=np.uint8).reshape(8, 8).repeat(4, axis=0).repeat(4, axis=1)
    colour = np.stack([grey] * 3, axis=-1)
    for pixels in (grey[..., None], colour):
        response = sent(trained_api, shape=[1, *pixels.shape], datatype="UINT8", data=pixels[None].tolist())
        assert np.argmax(response.json()["outputs"][0]["data"]) == 0
    as_file = sent(trained_api, shape=[1], datatype="BYTES", data=[base64.b64encode(png(colour)).decode()])
    assert as_file.json()["outputs"][0]["data"] == response.json()["outputs"][0]["data"]


def test_raw_output_follows_the_json(trained_api: TestClient) -> None:
    expected = answered(trained_api)
    body = {"parameters": {"binary_data_output": True}, "inputs": [ZEROS]}
    response = trained_api.post(INFER, json=body)
    length = int(response.headers[HEADER])
    assert response.headers["content-type"] == "application/octet-stream"
    (output,) = json.loads(response.content[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 40}
    assert "data" not in output
    assert np.frombuffer(response.content[length:], dtype="<f4").tolist() == expected
    body["outputs"] = [{"name": "logits", "parameters": {"binary_data": False}}, {"name": "probabilities"}]
    mixed = trained_api.post(INFER, json=body)
    length = int(mixed.headers[HEADER])
    assert json.loads(mixed.content[:length])["outputs"][0]["data"] == expected
    assert len(mixed.content) == length + 40


def test_the_index_takes_an_empty_body(trained_api: TestClient) -> None:
    for body in (b"", b"{}", b'{"ready": false}'):
        entries = trained_api.post("/v2/repository/index", content=body).json()
        assert [(entry["name"], entry["state"]) for entry in entries] == [
            ("tiny pruned", "UNAVAILABLE"),
            ("tiny", "UNAVAILABLE"),
        ]
    answered(trained_api)
    (ready,) = trained_api.post("/v2/repository/index", content=b'{"ready": true}').json()
    assert (ready["name"], ready["version"], ready["state"]) == ("tiny", "1", "READY")
    refusal_of(trained_api.post("/v2/repository/index", content=b'{"ready": 1}'), 400)
    refusal_of(trained_api.post("/v2/repository/index", content=b"[]"), 400)


def test_models_go_by_id_alias_and_name_and_are_listed_by_what_leads_to_them(trained_api: TestClient) -> None:
    ids = {entry["name"]: entry["id"] for entry in trained_api.get("/v1/models").json()["items"]}
    trained_api.put("/v1/aliases/prod", json={"model": "tiny"})
    for name in ("tiny", "prod", ids["tiny"]):
        assert trained_api.get(f"/v2/models/{name}").json()["name"] == name
        answer = trained_api.post(f"/v2/models/{name}/infer", json={"inputs": [ZEROS]}).json()
        assert answer["model_name"] == name
        assert answer["parameters"] == {"model": ids["tiny"]}
    # The name of one model now leads to the other: that one is listed by its id.
    trained_api.put("/v1/aliases/tiny", json={"model": "tiny pruned"})
    listed = [entry["name"] for entry in trained_api.post("/v2/repository/index").json()]
    assert listed == ["tiny pruned", ids["tiny"]]


BAD_DATA: dict[str, dict[str, Any]] = {
    "wrong name": {"name": "image"},
    "no name": {"name": None},
    "wrong datatype": {"datatype": "FP64"},
    "datatype of another kind": {"datatype": ["FP32"]},
    "no datatype": {"datatype": None},
    "wrong shape": {"shape": [1, 1, 9, 8], "data": [0.0] * 72},
    "no shape": {"shape": None},
    "shape of texts": {"shape": ["1", 1, 8, 8]},
    "shape of flags": {"shape": [True, 1, 8, 8]},
    "negative shape": {"shape": [-1, 1, 8, 8]},
    "empty batch": {"shape": [0, 1, 8, 8], "data": []},
    "endless shape": {"shape": [1] * 1000},
    "shape of fractions": {"shape": [1.0, 1, 8, 8]},
    "a million images": {"shape": [1_000_000, 1, 8, 8], "data": []},
    "astronomic shape": {"shape": [1, 10**18, 10**18, 10**18]},
    "too few": {"data": [0.0] * 63},
    "too many": {"data": [0.0] * 65},
    "none": {"data": []},
    "null": {"data": None},
    "a text": {"data": "0" * 64},
    "an object": {"data": {"0": 0.0}},
    "texts": {"data": ["0.5"] * 64},
    "a text among numbers": {"data": [0.0] * 63 + ["x" * 10_000]},
    "nulls": {"data": [None] * 64},
    "flags": {"data": [True] * 64},
    "lists among numbers": {"data": [0.0] * 63 + [[0.0]]},
    "ragged": {"data": [[[[0.0] * 8] * 7 + [[0.0] * 7]]]},
    "nested otherwise": {"data": [[0.0] * 8] * 8},
    "nested too deep": {"data": [[[[[0.0]] * 8] * 8]]},
    "more than FP32 holds": {"data": [1e300] * 64},
    "more than any number holds": {"data": [10**400] * 64},
    "absurd numbers": {"data": [3e38] * 64},
    "pixels that are no bytes": {"datatype": "UINT8", "shape": [1, 8, 8, 1], "data": [256] * 64},
    "negative pixels": {"datatype": "UINT8", "shape": [1, 8, 8, 1], "data": [-1] * 64},
    "fractions of pixels": {"datatype": "UINT8", "shape": [1, 8, 8, 1], "data": [0.5] * 64},
    "five channels": {"datatype": "UINT8", "shape": [1, 4, 4, 4], "data": [0] * 64},
    "flat pixels": {"datatype": "UINT8", "shape": [1, 64], "data": [0] * 64},
    "no base64": {"datatype": "BYTES", "shape": [1], "data": ["#"]},
    "no ASCII": {"datatype": "BYTES", "shape": [1], "data": ["é"]},
    "half a character": {"datatype": "BYTES", "shape": [1], "data": ["\ud800"]},
    "numbers for files": {"datatype": "BYTES", "shape": [1], "data": [7]},
    "fewer files": {"datatype": "BYTES", "shape": [2], "data": [examples.PNG_BASE64]},
    "files in two dimensions": {"datatype": "BYTES", "shape": [1, 2], "data": [examples.PNG_BASE64] * 2},
    "shared memory": {"parameters": {"shared_memory_region": "x", "shared_memory_byte_size": 256}},
    "parameters of another kind": {"parameters": []},
    "a size of another kind": {"parameters": {"binary_data_size": "0"}},
    "a size for what is not there": {"parameters": {"binary_data_size": 256}},
}


def test_bad_inputs_are_refused_and_the_next_request_is_answered(trained_api: TestClient) -> None:
    good = answered(trained_api)
    for what, changes in BAD_DATA.items():
        text = json.dumps({"inputs": [{**ZEROS, **changes}]}).encode()
        response = trained_api.post(INFER, content=text)
        assert response.status_code == 400, (what, response.text)
        refusal_of(response, 400)
        assert answered(trained_api) == good, what


def test_classes_come_in_the_order_in_which_predictions_have_them(
    trained_settings: Settings, test_digits: list[tuple[bytes, str]]
) -> None:
    """Also where the probabilities of all but one are nought: a network may be that sure of itself."""
    with TestClient(create_app(trained_settings), base_url=LOOPBACK) as api:
        path = trained_settings.home / "models" / api.get("/v1/models/tiny").json()["id"] / "model.json"
        written = json.loads(path.read_text())
        written["calibration"]["temperature"] = 0.001
        path.write_text(json.dumps(written))
        image = test_digits[0][0]
        predicted = api.post("/v1/models/tiny/predict?top_k=4", content=image, headers={"content-type": "image/png"})
        wanted = [each["label"] for each in predicted.json()["predictions"][0]["top"]]
        assert predicted.json()["predictions"][0]["top"][1]["probability"] == 0
        body, headers = binary(elements(image), shape=[1, 1], datatype="BYTES")
        asked = json.loads(body[: int(headers[HEADER])])
        asked["outputs"] = [{"name": "logits", "parameters": {"classification": 4, "binary_data": False}}]
        text = json.dumps(asked).encode()
        response = api.post(INFER, content=text + elements(image), headers={HEADER: str(len(text))})
        assert response.status_code == 200, response.text
        assert [each.split(":")[2] for each in response.json()["outputs"][0]["data"]] == wanted


def test_what_is_null_is_not_there(trained_api: TestClient) -> None:
    good = answered(trained_api)
    nulls = {"parameters": None, "outputs": None, "id": None}
    text = json.dumps({**nulls, "inputs": [{**ZEROS, "parameters": None}]}).encode()
    response = trained_api.post(INFER, content=text)
    assert response.status_code == 200, response.text
    assert response.json()["outputs"][0]["data"] == good
    output = {"name": "logits", "parameters": {"binary_data": None, "classification": None}}
    text = json.dumps({"inputs": [ZEROS], "outputs": [output]}).encode()
    assert trained_api.post(INFER, content=text).json()["outputs"][0]["data"] == good


BAD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "deep inside": b'{"inputs":' + b'{"a":' * 50_000,
    "deep data": json.dumps({"inputs": [ZEROS]}).encode().replace(b"[0.0, ", b"[" * 900, 1),
    "no UTF-8": b'{"id": "\xff"}',
    "NaN": json.dumps({"inputs": [{**ZEROS, "data": [float("nan")] * 64}]}).encode(),
    "Infinity": json.dumps({"inputs": [{**ZEROS, "data": [float("inf")] * 64}]}).encode(),
    "an endless number": b'{"inputs": ' + b"9" * 10_000 + b"}",
    "no inputs": b"{}",
    "empty inputs": b'{"inputs": []}',
    "inputs of another kind": b'{"inputs": "images"}',
    "an input of another kind": b'{"inputs": ["images"]}',
    "two inputs": json.dumps({"inputs": [ZEROS, ZEROS]}).encode(),
    "a megabyte": b'{"inputs": [' + b'"x",' * 250_000 + b'"x"]}',
    "an id of another kind": json.dumps({"id": 7, "inputs": [ZEROS]}).encode(),
    "parameters of another kind": json.dumps({"parameters": 7, "inputs": [ZEROS]}).encode(),
    "a flag of another kind": json.dumps({"parameters": {"binary_data_output": 1}, "inputs": [ZEROS]}).encode(),
    "an image": PNG,
    "lists without end": b'{"inputs":[{"name":"images","datatype":"FP32","shape":[1,1,8,8],"data":['
    + b"[]," * 2_000_000
    + b"[]]}]}",
}
BAD_OUTPUTS: list[Any] = [
    "logits",
    ["logits"],
    [{}],
    [{"name": "softmax"}],
    [{"name": ["logits"]}],
    [{"name": "logits"}, {"name": "logits"}],
    [{"name": "logits", "parameters": []}],
    [{"name": "logits", "parameters": {"classification": -1}}],
    [{"name": "logits", "parameters": {"classification": "3"}}],
    [{"name": "logits", "parameters": {"classification": True}}],
    [{"name": "logits", "parameters": {"binary_data": "true"}}],
    [{"name": "logits", "parameters": {"shared_memory_region": "x"}}],
]


def test_bad_json_is_refused(trained_api: TestClient) -> None:
    good = answered(trained_api)
    for what, text in BAD_BODIES.items():
        response = trained_api.post(INFER, content=text)
        assert response.status_code == 400, (what, response.text[:300])
        refusal_of(response, 400)
    for outputs in BAD_OUTPUTS:
        refusal_of(trained_api.post(INFER, json={"inputs": [ZEROS], "outputs": outputs}), 400)
    assert answered(trained_api) == good


def test_unknown_parameters_are_passed_over(trained_api: TestClient) -> None:
    parameters = {"sequence_id": 7, "priority": 1, "of_my_own": "x"}
    body = {"parameters": parameters, "inputs": [{**ZEROS, "parameters": {"content_type": "np"}}]}
    assert trained_api.post(INFER, json=body).json()["outputs"][0]["data"] == answered(trained_api)


def test_sizes_that_do_not_add_up_are_refused(trained_api: TestClient) -> None:
    good, raw = answered(trained_api), bytes(256)
    files = {"shape": [1], "datatype": "BYTES"}
    cases = [
        *(binary(raw, length=length) for length in (10**6, -1, "x", "", "1e2", "9" * 5000, "0x10", 0, 5, "²")),
        *(binary(raw, size=size) for size in (255, 257, 0, -1, "256", 256.0, True, 10**30)),
        *(binary(data) for data in (b"", raw[:-1], raw + b"x")),
        binary(raw, data=[0.0] * 64),
        binary(raw, size=None, data=[0.0] * 64),
        binary(np.full(64, np.nan, np.float32).tobytes()),
        binary(np.full(64, np.inf, np.float32).tobytes()),
        binary(np.full(64, 3e38, np.float32).tobytes()),
        binary(elements(PNG, PNG), **files),
        binary(elements(PNG)[:-1], **files),
        binary(elements(PNG) + b"x", **files),
        binary(b"\xff\xff\xff\xff" + PNG, **files),
        binary(b"\x01", **files),
        binary(b"", **files),
        binary(elements(PNG), shape=[2], datatype="BYTES"),
        binary(bytes(400_000), shape=[100_000], datatype="BYTES"),
    ]
    for body, headers in cases:
        given = {name: value.encode() for name, value in headers.items()}
        refusal_of(trained_api.post(INFER, content=body, headers=given), 400)
    plain, _ = binary(raw)
    refusal_of(trained_api.post(INFER, content=plain), 400)
    assert answered(trained_api) == good


def test_pixels_of_a_long_side_are_refused(trained_api: TestClient) -> None:
    for side, status in ((MAX_SIDE + 1, 400), (MAX_SIDE, 200)):
        body, headers = binary(bytes(side), shape=[1, 1, side, 1], datatype="UINT8")
        given = trained_api.post(INFER, content=body, headers=headers)
        assert given.status_code == status, given.text
        assert status == 200 or "65,535" in refusal_of(given, 400)


def test_what_is_no_image_is_named_by_its_place(trained_api: TestClient) -> None:
    good = answered(trained_api)
    for data, status in ((b"", 422), (PNG[:50], 422), (b"no image", 415), (png(np.zeros((9000, 9000))), 422)):
        body, headers = binary(elements(PNG, data), shape=[2], datatype="BYTES")
        assert "/inputs/0/data/1" in refusal_of(trained_api.post(INFER, content=body, headers=headers), status)
    assert answered(trained_api) == good


def test_compressed_bodies_are_bounded_and_must_be_whole(trained_api: TestClient) -> None:
    good = answered(trained_api)
    text = json.dumps({"inputs": [ZEROS]}).encode()
    bomb = bytes(40 * 1024 * 1024)
    for encoding, pack in (("gzip", lambda data: gzip.compress(data, 1)), ("deflate", lambda d: zlib.compress(d, 1))):

        def post(body: bytes, encoding: str = encoding) -> Any:
            return trained_api.post(INFER, content=body, headers={"content-encoding": encoding})

        assert post(pack(text)).status_code == 200
        refusal_of(post(pack(bomb)), 413)
        for broken in (b"", text, pack(text)[:-4], pack(text)[:20], pack(text) + b"x", pack(text) * 2, pack(b"")):
            refusal_of(post(broken), 400)
    in_two = gzip.compress(text[:20]) + gzip.compress(text[20:])
    for body, status in ((in_two, 200), (in_two[:-1], 400), (gzip.compress(b"") * 2000 + gzip.compress(text), 400)):
        response = trained_api.post(INFER, content=body, headers={"content-encoding": "gzip"})
        assert response.status_code == status, len(body)
    response = trained_api.post(
        INFER, content=gzip.compress(bomb[: len(bomb) // 2], 1) * 2, headers={"content-encoding": "gzip"}
    )
    refusal_of(response, 413)
    for encoding in ("br", "gzip, gzip", "zstd", "x"):
        response = trained_api.post(INFER, content=text, headers={"content-encoding": encoding})
        refusal_of(response, 415)
        assert response.headers["accept-encoding"] == "gzip, deflate"
    assert answered(trained_api) == good


def test_answers_are_compressed_for_those_who_accept_it(trained_api: TestClient) -> None:
    body = {"inputs": [{**ZEROS, "shape": [64, 1, 8, 8], "data": [0.0] * 64 * 64}]}
    for accepted, expected in (
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("br, deflate;q=0.5", "deflate"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip;q=0.0", None),
        ("*", "gzip"),
        ("gzip;q=0, *", "deflate"),
        ("*;q=0", None),
        ("identity", None),
        ("br", None),
    ):
        response = trained_api.post(INFER, json=body, headers={"accept-encoding": accepted})
        assert response.headers.get("content-encoding") == expected, accepted
        assert response.headers.get("vary") == (expected and "Accept-Encoding"), accepted
        assert len(response.json()["outputs"][0]["data"]) == 640
    small = trained_api.post(INFER, json={"inputs": [ZEROS]}, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in small.headers


def test_unknown_models_versions_and_addresses_are_not_found(trained_api: TestClient) -> None:
    for name in ("nobody", "mdl_0", "%00", "x" * 5000):
        for method, rest in (("POST", "/infer"), ("GET", ""), ("GET", "/config"), ("GET", "/ready"), ("GET", "/stats")):
            sentence = refusal_of(trained_api.request(method, f"/v2/models/{name}{rest}"), 404)
            assert "Request for unknown model" in sentence
            assert name not in sentence
    for version in ("0", "2", "latest", "-1", "1.0"):
        address = f"/v2/models/tiny/versions/{version}"
        assert "Request for unknown model" in refusal_of(trained_api.get(address), 404)
        refusal_of(trained_api.post(f"{address}/infer", json={"inputs": [ZEROS]}), 404)
    for address in ("/v2/", "/v2/models/tiny/", "/v2/models/tiny/versions/1/nothing", "/v2/logging", "/v2//models"):
        refusal_of(trained_api.get(address, follow_redirects=False), 404)
    response = trained_api.get(INFER)
    refusal_of(response, 405)
    assert response.headers["allow"] == "POST"


def test_a_body_over_the_limit_is_refused(trained_settings: Settings) -> None:
    settings = trained_settings.model_copy(update={"max_body_bytes": 2000})
    with TestClient(create_app(settings), base_url=LOOPBACK) as api:
        body, headers = binary(bytes(256 * 10), shape=[10, 1, 8, 8])
        refusal_of(api.post(INFER, content=body, headers=headers), 413)
        refusal_of(api.post(INFER, content=iter([body[:1500], body[1500:]]), headers=headers), 413)
        refusal_of(
            api.post(INFER, content=zlib.compress(body), headers={**headers, "content-encoding": "deflate"}), 413
        )
        refusal_of(api.post("/v2/repository/index", content=bytes(3000)), 413)
        answered(api)


def test_a_model_that_still_trains_is_not_ready(trained_api: TestClient) -> None:
    trained_api.post("/v1/jobs", json={"kind": "train", "name": "later", "dataset": "digits", "architecture": "mlp"})
    refusal_of(trained_api.post("/v2/models/later/infer", json={"inputs": [ZEROS]}), 409)
    assert "failed to load" in refusal_of(trained_api.post("/v2/repository/models/later/load"), 409)
    refusal_of(trained_api.get("/v2/models/later/ready"), 409)


def test_a_time_to_wait_that_is_none_is_refused(trained_api: TestClient) -> None:
    for text in ("0", "-1", "x"):
        refusal_of(trained_api.post(INFER, json={"inputs": [ZEROS]}, headers={"x-timeout-ms": text}), 422)
    patient = trained_api.post(INFER, json={"inputs": [ZEROS]}, headers={"x-timeout-ms": "60000"})
    assert patient.status_code == 200


def test_a_damaged_model_is_said_to_have_failed_to_load(trained_api: TestClient, trained_settings: Settings) -> None:
    model_id = trained_api.get("/v1/models/tiny").json()["id"]
    folder = next(path for path in trained_settings.home.rglob(model_id) if path.is_dir())
    for path in folder.glob("*.safetensors"):
        path.write_bytes(b"damaged")
    assert "failed to load" in refusal_of(trained_api.post("/v2/repository/models/tiny/load"), 503)
    refusal_of(trained_api.get("/v2/models/tiny/ready"), 503)
    assert trained_api.get("/v2/models/tiny pruned/ready").json() == {"name": "tiny pruned", "ready": True}


def test_bad_requests_to_load_and_unload_are_refused(trained_api: TestClient) -> None:
    for action in ("load", "unload"):
        address = f"/v2/repository/models/tiny/{action}"
        for body in (b"[]", b"{", b'{"parameters": []}', b'{"parameters": 1}'):
            refusal_of(trained_api.post(address, content=body), 400)
        response = trained_api.post(address)
        assert (response.status_code, response.content) == (200, b"")
    load = "/v2/repository/models/tiny/load"
    for parameters in ({"config": {}}, {"config": "{"}, {"config": "7"}, {"config": "[" * 100_000}, {"file:x": "x"}):
        assert "failed to load" in refusal_of(trained_api.post(load, json={"parameters": parameters}), 400)
    for dependents in (1, "true"):
        body = {"parameters": {"unload_dependents": dependents}}
        refusal_of(trained_api.post("/v2/repository/models/tiny/unload", json=body), 400)


def test_a_model_that_was_brought_back_and_then_had_to_give_way_is_ready_again(trained_settings: Settings) -> None:
    narrow = trained_settings.model_copy(update={"model_cache_bytes": 0})
    with TestClient(create_app(narrow), base_url=LOOPBACK) as api:
        assert api.post("/v2/repository/models/tiny/unload").status_code == 200
        refusal_of(api.get("/v2/models/tiny/ready"), 400)
        for name in ("tiny", "tiny pruned"):
            given = api.post(f"/v1/models/{name}/predict", content=PNG, headers={"content-type": "image/png"})
            assert given.status_code == 200
        assert api.get("/v2/models/tiny/ready").status_code == 200


def test_a_model_by_the_name_of_the_statistics_is_listed_by_its_id(trained_api: TestClient) -> None:
    model = trained_api.patch("/v1/models/tiny", json={"name": "stats"}).json()["id"]
    names = {entry["name"] for entry in trained_api.post("/v2/repository/index").json()}
    assert names == {model, "tiny pruned"}
    assert trained_api.get(f"/v2/models/{model}").json()["name"] == model


def test_an_unexpected_error_is_one_sentence_too(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/v2/broken")
    async def broken() -> None:
        raise RuntimeError("secret")

    with TestClient(app, base_url=LOOPBACK, raise_server_exceptions=False) as api:
        assert "secret" not in refusal_of(api.get("/v2/broken"), 500)

"""Explanations over HTTP: pictures of where a model sees a class, and clear words where there is none."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from inference.batching import QueueFull
from inference.explaining import ActivationMaps, load_activation_maps
from inference.models import load_model
from service import deadlines, examples
from service.app import create_app
from service.explainer import MOST_WAITING, Explainer, Question
from service.heatmap import colours, heat_picture
from service.routes.explain import router
from service.uploads import Upload
from specs.settings import Settings
from store.artifacts import Artifacts
from store.database import Database
from tests.conftest import LOOPBACK, png
from tests.inference.conftest import SIZE, Published, random_pixels
from tests.inference.test_inference_explaining import answer_as_it_does, strides
from tests.problems import problem_of
from tests.service.test_service_predict import BAD_IMAGES

PNG = {"content-type": "image/png"}
LABELS = ("고양이", "bee / wasp", "cat", "2")


def explained(api: TestClient, image: bytes, query: str = "", *, model: str = "tiny") -> tuple[Image.Image, Any]:
    """The picture and the headers of an explanation."""
    response = api.post(f"/v1/models/{model}/explain?{query}", content=image, headers=PNG)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return Image.open(io.BytesIO(response.content)), response.headers


def directory_of(settings: Settings, api: TestClient, name: str = "tiny") -> Path:
    return settings.home / "models" / api.get(f"/v1/models/{name}").json()["id"]


@pytest.fixture
def seven(test_digits: list[tuple[bytes, str]]) -> bytes:
    """A PNG of a handwritten seven."""
    return next(data for data, label in test_digits if label == "7")


@pytest.fixture
def pooling_api(trained_settings: Settings) -> Iterator[TestClient]:
    """An API whose two models are convolutional networks that end in global average pooling."""
    with TestClient(create_app(trained_settings), base_url=LOOPBACK) as api:
        for seed, name in enumerate(("tiny", "tiny pruned")):
            directory = directory_of(trained_settings, api, name)
            for path in directory.iterdir():
                path.unlink()
            Published(directory, seed=seed).record(id=directory.name, classes=LABELS)
        yield api


@pytest.fixture
def picture() -> bytes:
    """A PNG of the size of those networks, with something everywhere."""
    return png(random_pixels(1, 3, seed=5)[0])


def test_what_is_explained_is_what_was_predicted(trained_api: TestClient, seven: bytes) -> None:
    predicted = trained_api.post("/v1/models/tiny/predict?top_k=10", content=seven, headers=PNG).json()
    top = predicted["predictions"][0]["top"]
    for query, answer in [("", top[0]), *((f"class={answer['label']}", answer) for answer in top)]:
        drawn, headers = explained(trained_api, seven, query)
        assert unquote(headers["x-label"]) == answer["label"]
        assert float(headers["x-probability"]) == pytest.approx(answer["probability"], abs=1e-6)
        assert headers["x-method"] == "occlusion", "a multilayer perceptron has no feature maps"
        assert (drawn.size, drawn.mode) == ((256, 256), "RGB")


def test_all_forms_of_body_give_the_same_picture(trained_api: TestClient, seven: bytes) -> None:
    address = "/v1/models/tiny/explain"
    pixels = np.asarray(Image.open(io.BytesIO(seven))).tobytes()
    raw = {"content-type": "application/octet-stream", "x-shape": "1,8,8,1"}
    responses = [
        trained_api.post(address, content=seven, headers=PNG),
        trained_api.post(address, files={"image": seven}),
        trained_api.post(address, json={"images": [base64.b64encode(seven).decode()]}),
        trained_api.post(address, content=pixels, headers=raw),
    ]
    assert {response.status_code for response in responses} == {200}
    assert len({response.content for response in responses}) == 1


def test_the_example_of_the_docs_page_is_answered(trained_api: TestClient) -> None:
    response = trained_api.post("/v1/models/tiny/explain", json={"images": [examples.PNG_BASE64]})
    assert (response.status_code, response.headers["x-label"]) == (200, "0")
    described = trained_api.get("/openapi.json").json()["paths"]["/v1/models/{reference}/explain"]["post"]
    answer = described["responses"]["200"]
    assert set(answer["content"]) == {"image/png"}
    assert set(answer["headers"]) == {"X-Label", "X-Probability", "X-Method"}


def test_the_map_is_the_networks_own(pooling_api: TestClient, trained_settings: Settings, picture: bytes) -> None:
    """The grey map, shrunk to the size of the feature maps, is the class activation map."""
    maps = load_activation_maps(directory_of(trained_settings, pooling_api), runtime="onnxruntime", threads=1)
    for index, label in enumerate(LABELS):
        wanted = maps.explain(random_pixels(1, 3, seed=5)[0], index)
        drawn, headers = explained(pooling_api, picture, f"class={quote(label)}&overlay=false")
        assert (headers["x-method"], drawn.mode, drawn.size) == ("cam", "L", (256, 256))
        assert headers["x-label"] == quote(label, safe="")
        assert float(headers["x-probability"]) == pytest.approx(wanted.probability)
        small = np.asarray(drawn.resize((SIZE, SIZE), Image.Resampling.BOX)).ravel()
        assert np.corrcoef(small, wanted.heat.ravel())[0, 1] > 0.95


def test_a_label_comes_before_an_index(pooling_api: TestClient, picture: bytes) -> None:
    indices = {"0": 0, "1": 1, "2": 3, "3": 3, "003": 3}
    for wanted, index in indices.items():
        _, headers = explained(pooling_api, picture, f"class={wanted}")
        assert unquote(headers["x-label"]) == LABELS[index]


def test_a_class_that_is_not_there_is_refused(pooling_api: TestClient, picture: bytes) -> None:
    for wanted in ("", "4", "-1", "1.0", "CAT", "²", "9999999999", "%00", "%ff", "x" * 1001):
        response = pooling_api.post(f"/v1/models/tiny/explain?class={wanted}", content=picture, headers=PNG)
        problem_of(response, 422, "query:class")


def test_the_method_is_the_one_that_was_asked_for(
    pooling_api: TestClient, picture: bytes, trained_settings: Settings
) -> None:
    pictures = {}
    for method, used in {"auto": "cam", "cam": "cam", "occlusion": "occlusion"}.items():
        drawn, headers = explained(pooling_api, picture, f"method={method}")
        assert headers["x-method"] == used
        pictures[method] = drawn.tobytes()
    assert pictures["auto"] == pictures["cam"] != pictures["occlusion"]


def test_a_map_of_four_places_is_drawn_only_if_asked_for(
    pooling_api: TestClient, picture: bytes, trained_settings: Settings
) -> None:
    directory = directory_of(trained_settings, pooling_api)
    published = Published(directory)
    answer_as_it_does(published, strides(4, 4))
    published.record(id=directory.name)
    for method, used in {"auto": "occlusion", "cam": "cam"}.items():
        assert explained(pooling_api, picture, f"method={method}")[1]["x-method"] == used


def test_a_network_without_maps_says_so(trained_api: TestClient, seven: bytes) -> None:
    for _ in range(2):
        response = trained_api.post("/v1/models/tiny/explain?method=cam", content=seven, headers=PNG)
        found = problem_of(response, 422, "query:method")
        assert "pooling" in found["errors"][0]["message"]
        assert "occlusion" in found["errors"][0]["hint"]
        assert explained(trained_api, seven, "method=auto")[1]["x-method"] == "occlusion"


SHAPES = [
    ((8, 8), "", (256, 256)),
    ((300, 100), "", (300, 100)),
    ((1000, 3000), "", (341, 1024)),
    ((8, 8), "size=16", (16, 16)),
    ((100, 300), "size=600", (200, 600)),
    ((5000, 1), "", (1024, 1)),
    ((1, 5000), "size=2048", (1, 2048)),
]


def test_the_picture_has_the_shape_of_the_image(trained_api: TestClient) -> None:
    for size, query, wanted in SHAPES:
        image = png(Image.new("RGB", size, (200, 10, 10)))
        for overlay, mode in (("true", "RGB"), ("false", "L")):
            drawn, _ = explained(trained_api, image, f"{query}&overlay={overlay}")
            assert (drawn.size, drawn.mode) == (wanted, mode)


def test_the_picture_is_upright(trained_api: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = png(Image.new("L", (400, 300)), kind="JPEG", exif=exif)
    assert explained(trained_api, turned)[0].size == (300, 400)


def test_what_cannot_be_drawn_is_refused(trained_api: TestClient, seven: bytes) -> None:
    for query in ("size=15", "size=2049", "size=x", "method=magic", "overlay=maybe"):
        response = trained_api.post(f"/v1/models/tiny/explain?{query}", content=seven, headers=PNG)
        problem_of(response, 422, f"query:{query.partition('=')[0]}")


def test_what_is_no_image_is_refused_and_the_next_is_explained(trained_api: TestClient, seven: bytes) -> None:
    for name, (spoil, status, reason) in BAD_IMAGES.items():
        bad = trained_api.post("/v1/models/tiny/explain", content=spoil(seven), headers=PNG)
        assert problem_of(bad, status, "#")["reason"] == reason, name
        in_json = {"images": [base64.b64encode(spoil(seven)).decode()]}
        problem_of(trained_api.post("/v1/models/tiny/explain", json=in_json), status, "#/images/0")
        assert explained(trained_api, seven)[1]["x-label"] == "7"


def test_one_image_at_a_time(trained_api: TestClient, seven: bytes) -> None:
    address = "/v1/models/tiny/explain"
    problem_of(trained_api.post(address, files=[("image", seven), ("image", seven)]), 422, "#/images")
    both = {"images": [base64.b64encode(seven).decode()] * 2}
    problem_of(trained_api.post(address, json=both), 422, "#/images")
    raw = {"content-type": "application/octet-stream", "x-shape": "2,8,8,1"}
    problem_of(trained_api.post(address, content=bytes(128), headers=raw), 422, "#")
    problem_of(trained_api.post(address, content=bytes(64), headers={**raw, "x-shape": "1,8,9,1"}), 422, "#")
    problem_of(trained_api.post(address, json={"images": []}), 422, "#/images")
    problem_of(trained_api.post(address, content=b"x", headers={"content-type": "text/plain"}), 415)
    problem_of(trained_api.post("/v1/models/nobody/explain", content=seven, headers=PNG), 404)


def networks_in_memory() -> int:
    return sum(isinstance(each, ActivationMaps) for each in gc.get_objects())


def test_a_deleted_model_leaves_no_network_behind(pooling_api: TestClient, picture: bytes) -> None:
    before = networks_in_memory()
    for name in ("tiny pruned", "tiny"):
        explained(pooling_api, picture, model=name)
    assert networks_in_memory() == before + 2
    for left, name in ((1, "tiny pruned"), (0, "tiny")):
        assert pooling_api.delete(f"/v1/models/{name}").status_code == 204
        assert networks_in_memory() == before + left
        problem_of(pooling_api.post(f"/v1/models/{name}/explain", content=picture, headers=PNG), 404)


def test_networks_give_way_to_each_other(pooling_api: TestClient, trained_settings: Settings, picture: bytes) -> None:
    before = networks_in_memory()
    small = trained_settings.model_copy(update={"model_cache_bytes": 1})
    with TestClient(create_app(small), base_url=LOOPBACK) as api:
        for name in ("tiny", "tiny pruned", "tiny"):
            assert explained(api, picture, model=name)[1]["x-method"] == "cam"
            assert networks_in_memory() == before + 1


def test_a_model_deleted_while_it_explains_answers_or_is_not_found(pooling_api: TestClient, picture: bytes) -> None:
    def ask(number: int) -> int:
        if number == 20:
            return pooling_api.delete("/v1/models/tiny pruned").status_code
        response = pooling_api.post("/v1/models/tiny pruned/explain", content=picture, headers=PNG)
        return response.status_code

    before = networks_in_memory()
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(ask, range(60)))
    assert statuses[20] == 204
    assert set(statuses) <= {200, 204, 404}
    assert statuses[-1] == 404
    assert networks_in_memory() == before


def test_an_explanation_that_comes_too_late_is_told_as_such(trained_api: TestClient, seven: bytes) -> None:
    address = "/v1/models/tiny/explain"
    # The model has yet to be loaded, runtime and all, which takes far longer.
    late = trained_api.post(address, content=seven, headers=PNG | {"x-timeout-ms": "1"})
    assert "1 ms" in problem_of(late, 504)["detail"]
    assert trained_api.post(address, content=seven, headers=PNG | {"x-timeout-ms": "60000"}).status_code == 200
    bad = trained_api.post(address, content=seven, headers=PNG | {"x-timeout-ms": "soon"})
    problem_of(bad, 422, "#/header:X-Timeout-Ms")
    (route,) = router.routes
    assert isinstance(route, APIRoute)
    assert deadlines.PARAMETER in (route.openapi_extra or {})["parameters"]


def test_more_than_can_wait_are_asked_to_come_again(trained_settings: Settings, trained_api: TestClient) -> None:
    """And the loop goes on while explanations are under way."""
    go_on = threading.Event()
    model = load_model(directory_of(trained_settings, trained_api), threads=1)

    def network(images: NDArray[np.float32]) -> NDArray[np.float32]:
        assert go_on.wait(60)
        return model.network(images)

    slow, pixels = replace(model, network=network), np.zeros((8, 8, 1), dtype=np.uint8)
    question = Question(None, "occlusion", None, True)
    database = Database.of(trained_settings)
    explainer = Explainer(trained_settings, database, Artifacts(trained_settings.home), lambda network: network)

    async def crowd() -> list[Any]:
        upload = Upload(pixels=pixels[None])
        asked = [asyncio.create_task(explainer.draw(slow, pixels, upload, question)) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as refused:
            await explainer.draw(slow, pixels, upload, question)
        assert refused.value.retry_after >= 1
        go_on.set()
        return await asyncio.gather(*asked, explainer.draw(slow, pixels, upload, question), return_exceptions=True)

    try:
        *answered, last = asyncio.run(crowd())
    finally:
        go_on.set()
        explainer.close()
        database.close()
    assert len({drawn for _, drawn in answered}) == 1
    assert isinstance(last, QueueFull)


def test_the_colours_grow_lighter_and_need_no_red_or_green() -> None:
    """Lightness alone tells more from less, so that whoever sees no hue reads the same map."""
    table = colours().astype(float)
    assert table.shape == (256, 3)
    lightness = table @ (0.2126, 0.7152, 0.0722)
    assert np.all(np.diff(lightness) > -0.5)
    assert lightness[-1] > 5 * lightness[0]
    assert np.all(np.diff(lightness[::16]) > 3)


def test_an_even_heat_marks_nothing() -> None:
    drawn = heat_picture(np.full((4, 4), 7.0), np.zeros((8, 8, 1), dtype=np.uint8), size=32, overlay=False)
    assert not np.asarray(Image.open(io.BytesIO(drawn))).any()


def test_heat_lies_where_it_belongs() -> None:
    """A hot place in the second row and the third column of three by four, over an image of another shape."""
    heat = np.zeros((3, 4))
    heat[1, 2] = 1
    image = np.zeros((90, 200, 3), dtype=np.uint8)
    drawn = np.asarray(Image.open(io.BytesIO(heat_picture(heat, image, size=200, overlay=True))), dtype=float)
    row, column = np.unravel_index(drawn.sum(axis=-1).argmax(), drawn.shape[:2])
    assert 30 <= row < 60
    assert 100 <= column < 150

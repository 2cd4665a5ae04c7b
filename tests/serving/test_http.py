"""The service over HTTP: every answer beside what the library computes itself, every refusal a problem."""

import asyncio
import base64
import dataclasses
import io
import json
import logging
import re
import threading
from importlib import resources

import httpx
import jax
import jsonschema_rs
import numpy as np
import pytest
from PIL import Image

from jaxrobust import data, saliency
from jaxrobust.neighbourhoods import Pose, RotationTranslation
from jaxrobust.serving import Service, Settings, batching, create_app, images, logs, openapi, programs
from jaxrobust.serving.middleware import SECURITY_HEADERS
from jaxrobust.serving.problems import Problem
from jaxrobust.types import Example
from tests.serving.service_under_test import NAMES, SMALL, digits, encode, running, served

IMAGES = digits(8)
MODEL = served()
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def service():
    return Service(MODEL, settings=SMALL)


@pytest.fixture(scope="module")
def client(service):
    with running(service) as address, httpx.Client(base_url=address, timeout=60) as found:
        yield found


@pytest.fixture(scope="module")
def valid(client):
    """Checks an answer against its schema in the description."""
    document = client.get("/openapi.json").json()

    def check(name, value):
        root = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema_rs.validator_for(root).validate(value)
        return value

    return check


@pytest.fixture(scope="module")
def probabilities():
    """`f(images)` of the same net, by one program of its own."""
    fn = jax.jit(lambda net, images: jax.nn.softmax(net(images).logits))
    return lambda images: np.asarray(fn(MODEL.outputs_fn, images))


def problem(response, status, kind):
    """Asserts that the answer is such a problem; gives it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found = response.json()
    assert found["type"] == f"urn:jaxrobust:problem:{kind}" and found["status"] == status
    assert found["instance"] == f"urn:request:{response.headers['x-request-id']}"
    return found


def test_an_image_gets_its_class_and_distribution(client, valid, probabilities):
    expected = probabilities(data.to_float(IMAGES))
    for image, row in zip(IMAGES, expected):
        raw = client.post("/v1/recognise", content=encode(image), headers=PNG).json()
        form = client.post("/v1/recognise", files={"file": ("x.png", encode(image))}).json()
        answer = valid("Recognition", raw)
        assert answer["model"] == MODEL.id and answer["milliseconds"] > 0
        assert answer["class"] == row.argmax() and answer["name"] == NAMES[row.argmax()]
        np.testing.assert_allclose(answer["distribution"], row, atol=1e-6)
        assert sum(answer["distribution"]) == pytest.approx(1, abs=1e-6)
        assert {**form, "milliseconds": 0} == {**raw, "milliseconds": 0}
        order = np.argsort(-np.array(answer["distribution"]), kind="stable")[:5]
        assert [one["class"] for one in answer["top"]] == order.tolist()
    assert len(client.post("/v1/recognise?top=2", content=encode(IMAGES[0]), headers=PNG).json()["top"]) == 2


def test_a_batch_is_answered_in_its_order(client, valid, probabilities):
    files = [("file", (f"{i}.png", encode(image))) for i, image in enumerate(IMAGES[:4])]
    found = valid("Recognitions", client.post("/v1/recognise:batch", files=files).json())
    expected = probabilities(data.to_float(IMAGES[:4]))
    np.testing.assert_allclose([one["distribution"] for one in found["results"]], expected, atol=1e-6)


def test_one_bad_image_of_a_batch_is_pointed_at(client, valid):
    files = [("file", ("a", encode(IMAGES[0]))), ("file", ("b", b"no image"))]
    found = problem(client.post("/v1/recognise:batch", files=files), 415, "not-an-image")
    assert valid("Problem", found)["index"] == 1


def view(answer):
    png = base64.b64decode(answer["view"].partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def test_a_moved_image_is_what_the_neighbourhood_makes_of_it(client, probabilities):
    moves = RotationTranslation(max_angle=180, max_shift=8)
    image = data.to_float(IMAGES[1])
    pose = Pose(np.float32(-20), np.float32([1.5, -0.5]))
    moved = np.asarray(moves.apply(Example(image, 0), pose))
    path = "/v1/recognise?angle=-20&down=1.5&right=-0.5&view=1"
    answer = client.post(path, content=encode(IMAGES[1]), headers=PNG).json()
    np.testing.assert_allclose(answer["distribution"], probabilities(moved[None])[0], atol=1e-5)
    np.testing.assert_array_equal(view(answer), np.round(moved * 255).astype(np.uint8))


def test_a_view_sent_back_as_prepared_gets_the_same_answer(client):
    large = np.kron(IMAGES[2][..., 0], np.ones((5, 7), np.uint8))
    first = client.post("/v1/recognise?view=true", content=encode(large), headers=PNG).json()
    again = client.post("/v1/recognise?prepared=1&view=1", content=encode(view(first)), headers=PNG).json()
    assert view(first).shape == (8, 8, 1)
    np.testing.assert_array_equal(view(first), view(again))
    assert first["distribution"] == again["distribution"]
    refused = client.post("/v1/recognise?prepared=1", content=encode(large), headers=PNG)
    assert "56x40" in problem(refused, 422, "image-refused")["detail"]


def test_stability_counts_the_classes_around_an_image(client, valid):
    path = "/v1/recognise?stability=1"
    answers = [client.post(path, content=encode(image), headers=PNG).json() for image in IMAGES]
    for image, answer in zip(IMAGES, answers):
        found = valid("Recognition", answer)["stability"]
        assert found["neighbourhood"] == "a ball" and found["samples"] == 4
        counts = {one["class"]: one["count"] for one in found["classes"]}
        assert sum(counts.values()) == 4
        assert found["changed"] == 4 - counts.get(answer["class"], 0)
        assert found["share_changed"] == found["changed"] / 4
        again = client.post(path, content=encode(image), headers=PNG).json()
        assert again["stability"] == found, "Equal images draw equally."
    # A net of random weights in a ball this large: some classes change.
    assert any(answer["stability"]["changed"] for answer in answers)


def test_the_heat_map_is_the_occlusion_of_the_class(client, valid):
    target_fn = saliency.class_logit(saliency.of_images(lambda x: MODEL.outputs_fn(x).logits))
    method = saliency.Occlusion(window=2, stride=1)
    for query, label in (("", None), ("?class=7", 7)):
        answer = client.post(f"/v1/explain{query}", content=encode(IMAGES[3]), headers=PNG).json()
        found = valid("Explanation", answer)["explained"]
        label = answer["class"] if label is None else label
        images = data.to_float(IMAGES[3:4])
        expected = np.asarray(
            saliency.saliency_maps(method, target_fn, images, targets=[label], baseline=0.5)
        )[0]
        assert (found["class"], found["name"]) == (label, NAMES[label])
        assert found["largest"] == pytest.approx(np.abs(expected).max(), rel=1e-4)
        np.testing.assert_allclose(np.array(found["map"]) * found["largest"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("angle=181", "angle"), ("angle=nan", "angle"), ("angle=1_0", "angle"), ("angle=", "angle"),
        ("down=8.1", "down"), ("right=x", "right"), ("top=0", "top"), ("top=1.5", "top"),
        ("stability=yes", "stability"), ("view=2", "view"), ("class=1", "class"), ("size=9", "size"),
        ("angle=1&angle=2", "angle"),
    ],
)  # fmt: skip
def test_parameters_are_read_strictly(client, query, name):
    response = client.post(f"/v1/recognise?{query}", content=encode(IMAGES[0]), headers=PNG)
    assert problem(response, 422, "bad-parameter")["parameter"] == name


def test_a_class_that_is_not_there_is_refused(client):
    response = client.post("/v1/explain?class=10", content=encode(IMAGES[0]), headers=PNG)
    assert "0 to 9" in problem(response, 422, "bad-parameter")["detail"]


def test_bodies_of_the_wrong_form_are_refused(client):
    png = encode(IMAGES[0])
    post = client.post
    problem(
        post("/v1/recognise", content=png, headers={"content-type": "text/html"}), 415, "unsupported-type"
    )
    problem(post("/v1/recognise", content=png), 415, "unsupported-type")
    problem(post("/v1/recognise:batch", content=png, headers=PNG), 415, "unsupported-type")
    problem(post("/v1/recognise", files={"image": png}), 422, "bad-request")
    problem(post("/v1/recognise", files=[("file", png)] * 2), 400, "bad-request")
    problem(post("/v1/recognise", data={"file": "text"}, files={"x": b""}), 422, "bad-request")
    broken = {"content-type": "multipart/form-data"}
    problem(post("/v1/recognise", content=png, headers=broken), 400, "bad-request")
    broken = {"content-type": "multipart/form-data; boundary=x"}
    problem(post("/v1/recognise", content=b"--y\r\n", headers=broken), 400, "bad-request")
    problem(post("/v1/recognise:batch", files=[("file", png)] * 5), 400, "bad-request")
    problem(post("/v1/recognise", content=b"", headers=PNG), 415, "not-an-image")


def test_addresses_and_methods_that_are_not_there_are_problems(client):
    problem(client.get("/v2"), 404, "not-found")
    problem(client.get("/v1/verify"), 404, "not-found")
    response = client.get("/v1/recognise")
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


def test_every_answer_has_the_security_headers_and_none_opens_to_other_origins(client):
    origin = {"origin": "https://elsewhere.example"}
    for response in (
        client.get("/", headers=origin),
        client.get("/healthz", headers=origin),
        client.post("/v1/recognise", headers=origin),
        client.options("/v1/recognise", headers={**origin, "access-control-request-method": "POST"}),
    ):
        assert {name: response.headers[name] for name in SECURITY_HEADERS} == {
            **SECURITY_HEADERS,
            # The page is asked for anew, all else is not kept.
            "Cache-Control": "no-cache" if response.request.url.path == "/" else "no-store",
        }
        assert not [name for name in response.headers if name.startswith("access-control")]
        assert "server" not in response.headers


def test_the_description_names_every_address_and_no_other(client, service):
    document = client.get("/openapi.json").json()
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    app = create_app(Service(MODEL, settings=SMALL))
    there = {(route.path, m.lower()) for route in app.app.routes for m in route.methods if m != "HEAD"}
    assert described == there
    faces = openapi.document(served(threshold=0.5), SMALL, True)
    assert {"/v1/verify", "/v1/identify"} <= set(faces["paths"])
    assert faces["paths"]["/v1/model"]["get"]["security"]


def test_the_model_card_and_limits_are_told(client, valid):
    found = valid("Model", client.get("/v1/model").json())
    assert found["class_names"] == list(NAMES) and found["card"] == {"name": "tiny"}
    assert found["limits"] == {"bytes": SMALL.max_bytes, "pixels": SMALL.max_pixels, "batch": 4}
    assert found["tasks"] == ["recognise"] and found["threshold"] is None


def test_health_readiness_and_metrics(client, valid):
    valid("Alive", client.get("/healthz").json())
    assert valid("Ready", client.get("/readyz").json())["model"] == MODEL.id
    client.post("/v1/recognise", content=encode(IMAGES[0]), headers=PNG)
    client.get("/made/up/by/a/client")
    text = client.get("/metrics").text
    assert re.search(r'jaxrobust_requests_total\{route="/v1/recognise",status="200"\} [1-9]', text)
    assert f'jaxrobust_model_info{{id="{MODEL.id}"}} 1.0' in text
    assert "jaxrobust_images_in_house 0.0" in text and "jaxrobust_ready 1.0" in text
    assert "made/up" not in text and 'route="other",status="404"' in text
    assert re.search(r'jaxrobust_batch_images_count\{program="forward"\} [1-9]', text)


def test_the_page_has_no_external_assets(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {"page/app.js", "page/style.css"} <= set(links)
    for link in links:
        if not link.startswith("data:"):
            assert client.get(f"/{link}").status_code == 200, link
    for file in resources.files("jaxrobust.serving").joinpath("page").iterdir():
        assert not re.search(r"(https?:)?//[a-z]", file.read_text().replace("// ", "")), file.name


def test_a_line_in_the_log_has_an_id_and_nothing_of_the_image(client, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(logging, "captureWarnings", lambda on: None)
    logs.configure("info", stream)
    try:
        given = {"x-request-id": "order-66", "content-type": "multipart/form-data; boundary=x"}
        body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="secret.png"\r\n\r\n'
        client.post("/v1/recognise?view=1", content=body + b"SECRET\r\n--x--\r\n", headers=given)
        client.post("/v1/recognise", content=encode(IMAGES[0]), headers={**PNG, "x-request-id": "a b\\"})
    finally:
        logging.getLogger("jaxrobust.serving").handlers = []
    bad, good = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (bad["request"], bad["status"], bad["problem"]) == ("order-66", 415, "not-an-image")
    assert bad["route"] == "/v1/recognise" and bad["ms"] > 0
    assert re.fullmatch("[0-9a-f]{32}", good["request"])
    assert "secret" not in stream.getvalue().lower() and "127.0.0.1" not in stream.getvalue()


def held(service):
    """Holds the device: gives an event that lets it go on."""
    go = threading.Event()
    honest = service._batcher._run_fn
    service._batcher._run_fn = lambda name, rows: go.wait(30) and honest(name, rows)
    return go, lambda: setattr(service._batcher, "_run_fn", honest)


def test_a_full_queue_is_429_and_what_was_accepted_is_answered(client, service, probabilities):
    go, restore = held(service)
    body = encode(IMAGES[4])

    async def flood():
        limits = httpx.Limits(max_connections=40)
        async with httpx.AsyncClient(base_url=client.base_url, timeout=60, limits=limits) as many:

            async def one():
                return await many.post("/v1/recognise", content=body, headers=PNG)

            tasks = [asyncio.create_task(one()) for _ in range(40)]
            while sum(task.done() for task in tasks) < 40 - SMALL.max_queue:
                await asyncio.sleep(0.01)
            go.set()
            return await asyncio.gather(*tasks)

    try:
        answers = asyncio.run(asyncio.wait_for(flood(), 60))
    finally:
        go.set()
        restore()
    refused = [one for one in answers if one.status_code != 200]
    assert len(refused) == 40 - SMALL.max_queue
    for one in refused:
        problem(one, 429, "overloaded")
        assert one.headers["retry-after"] == "1"
    expected = probabilities(data.to_float(IMAGES[4:5]))[0]
    for one in answers:
        if one.status_code == 200:
            np.testing.assert_allclose(one.json()["distribution"], expected, atol=1e-6)
    assert service.admission.images == 0 and service.admission.bytes == 0


def test_an_error_of_the_model_is_a_500_without_its_words(client, service):
    honest = service._batcher._run_fn

    def failing(name, rows):
        raise RuntimeError("weights of the secret kind")

    service._batcher._run_fn = failing
    try:
        response = client.post("/v1/recognise", content=encode(IMAGES[0]), headers=PNG)
    finally:
        service._batcher._run_fn = honest
    assert "secret" not in json.dumps(problem(response, 500, "internal"))
    assert client.post("/v1/recognise", content=encode(IMAGES[0]), headers=PNG).status_code == 200


def test_bytes_are_counted_as_they_come(tmp_path):
    settings = Settings(max_batch=1, max_queue=1, max_bytes=2000, read_seconds=0.5)
    with (
        running(Service(MODEL, settings=settings)) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        problem(client.post("/v1/recognise", content=bytes(2001), headers=PNG), 413, "too-large")

        def slowly(pieces, pause):
            for _ in range(pieces):
                yield bytes(100)
                threading.Event().wait(pause)

        # Without a length, and longer than it may be.
        problem(client.post("/v1/recognise", content=slowly(30, 0), headers=PNG), 413, "too-large")
        problem(client.post("/v1/recognise", content=slowly(10, 0.1), headers=PNG), 408, "too-slow")
        assert client.post("/v1/recognise", content=encode(IMAGES[0]), headers=PNG).status_code == 200


def test_before_the_model_is_compiled_the_server_says_so(monkeypatch):
    go = threading.Event()
    honest = programs.load
    monkeypatch.setattr(programs, "load", lambda *args: go.wait(30) and honest(*args))
    service = Service(MODEL, settings=SMALL)

    async def ask():
        await service.start()
        app = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=app, base_url="http://here") as client:
            health, ready = await client.get("/healthz"), await client.get("/readyz")
            early = await client.post("/v1/recognise", content=encode(IMAGES[0]), headers=PNG)
            go.set()
            await service.wait()
            late = await client.get("/readyz")
        await service.stop()
        return health, ready, early, late

    health, ready, early, late = asyncio.run(ask())
    assert health.status_code == 200 and late.status_code == 200
    for response in (ready, early):
        problem(response, 503, "not-ready")
        assert int(response.headers["retry-after"]) > 0


def test_while_it_drains_images_are_answered_and_new_ones_sent_elsewhere(client, service):
    service.draining = True
    try:
        problem(client.get("/readyz"), 503, "not-ready")
        assert client.post("/v1/recognise", content=encode(IMAGES[0]), headers=PNG).status_code == 200
    finally:
        service.draining = False


def test_a_model_that_cannot_be_made_ready_is_told_of():
    told = []
    wrong = served(class_names=NAMES[:9])
    service = Service(wrong, settings=SMALL, on_failure=told.append)

    async def start():
        await service.start()
        with pytest.raises(ValueError, match="gives 10 classes and has 9 names"):
            await service.wait()
        assert not service.is_ready
        await service.stop()

    asyncio.run(start())
    assert len(told) == 1


def test_nobody_waits_for_a_decoder_for_long(monkeypatch):
    """And what has failed leaves none of its other images to be decoded."""
    monkeypatch.setattr(batching, "PATIENCE", 0.2)
    began, go = [], threading.Event()

    def slow(body, *args, **more):
        began.append(body)
        go.wait(30)
        raise Problem(422, "image-refused", "It is slow.")

    monkeypatch.setattr(images, "decode", slow)
    service = Service(MODEL, settings=dataclasses.replace(SMALL, decode_threads=1))

    async def ask():
        await service.start()
        await service.wait()
        app = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=app, base_url="http://here") as client:
            several = client.post("/v1/recognise:batch", files=[("file", b"a"), ("file", b"b")])
            first = asyncio.create_task(several)
            while not began:
                await asyncio.sleep(0.01)
            late = await client.post("/v1/recognise", content=b"c", headers=PNG)
            go.set()
            answers = await first, late
        await service.stop()
        return answers

    first, late = asyncio.run(ask())
    problem(late, 429, "overloaded")
    # The second of the batch waited too long before the first was done.
    problem(first, 429, "overloaded")
    assert first.json()["index"] == 1
    assert began == [b"a"] and service.admission.images == service.admission.bytes == 0

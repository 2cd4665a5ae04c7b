"""Who may ask, and another checkpoint put in the place of the one in use."""

import asyncio
import gc
import io
import json
import logging
import threading
import weakref

import httpx
import jax
import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.serving import Service, create_app, logs, programs, read_keys
from jaxrobust.types import Outputs
from tests.serving.service_under_test import SMALL, digits, encode, running, served

KEY, ADMIN = "k" * 20, "a" * 20
IMAGE = digits(1)[0]
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def shelf():
    """What the loader finds: set by the tests."""
    return {"next": lambda: served(1)}


@pytest.fixture(scope="module")
def service(shelf):
    return Service(served(0), lambda: shelf["next"](), SMALL)


@pytest.fixture(scope="module")
def client(service, tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"{KEY}\n{ADMIN} admin\n")
    with running(service, read_keys(file)) as address, httpx.Client(base_url=address, timeout=60) as found:
        yield found


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def recognise(client):
    response = client.post("/v1/recognise", content=encode(IMAGE), headers={**PNG, "x-api-key": KEY})
    assert response.status_code == 200, response.text
    return response.json()


def expected(seed):
    logits = served(seed).outputs_fn(data.to_float(IMAGE[None])).logits
    return np.asarray(jax.nn.softmax(logits))[0]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        (bearer("wrong"), 401),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": KEY}, 401),
        ({"x-api-key": KEY[:-1]}, 401),
        (bearer(KEY), 200),
        ({"x-api-key": ADMIN}, 200),
    ],
)
@pytest.mark.parametrize("address", ["/v1/model", "/v1/recognise"])
def test_an_open_door_needs_a_key(client, address, headers, status):
    method = "GET" if address == "/v1/model" else "POST"
    response = client.request(method, address, headers={**headers, **PNG}, content=encode(IMAGE))
    assert response.status_code == status
    if status == 401:
        assert response.headers["www-authenticate"] == "Bearer"


def test_what_watches_the_server_needs_no_key(client):
    for address in ("/", "/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert client.get(address).status_code == 200


def test_only_an_admin_may_reload(client):
    assert client.post("/v1/model:reload").status_code == 401
    assert client.post("/v1/model:reload", headers=bearer(KEY)).status_code == 403
    assert recognise(client)["model"] == "tiny-0"


def test_without_keys_nobody_may_reload():
    with running(Service(served(0), lambda: served(1), SMALL)) as address:
        assert httpx.post(f"{address}/v1/model:reload").status_code == 403


def test_another_checkpoint_takes_the_place_and_compiles_nothing(client, service):
    before = recognise(client)
    np.testing.assert_allclose(before["distribution"], expected(0), atol=1e-6)
    compiled = dict(service.loaded.compiled)
    answer = client.post("/v1/model:reload", headers=bearer(ADMIN))
    assert answer.status_code == 200 and answer.json()["before"] == "tiny-0", answer.text
    after = recognise(client)
    assert after["model"] == answer.json()["model"] == "tiny-1"
    np.testing.assert_allclose(after["distribution"], expected(1), atol=1e-6)
    assert service.loaded.compiled == compiled, "The same programs, object by object."
    assert 'jaxrobust_model_info{id="tiny-1"} 1.0' in client.get("/metrics").text
    assert "tiny-0" not in client.get("/metrics").text


def broken():
    raise OSError("/a/secret/place is gone")


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (broken, "OSError"),
        (lambda: served(2, shape=(9, 8, 1)), "image_shape"),
        (lambda: served(2, neighbourhood=None), "no neighbourhood"),
        (lambda: served(2, threshold=0.5), "no threshold"),
        (lambda: served(2, class_names=("one",)), "ValueError"),
    ],
)
def test_what_cannot_take_the_place_leaves_the_old_one(client, shelf, loader, words):
    before, shelf["next"] = recognise(client), loader
    response = client.post("/v1/model:reload", headers=bearer(ADMIN))
    assert response.status_code == 409 and words in response.json()["detail"]
    assert "secret" not in response.text
    assert recognise(client)["distribution"] == before["distribution"]


def test_the_log_says_why_a_model_was_not_taken(client, shelf, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(logging, "captureWarnings", lambda on: None)
    logs.configure("error", stream)
    shelf["next"] = broken
    try:
        client.post("/v1/model:reload", headers=bearer(ADMIN))
    finally:
        logging.getLogger("jaxrobust.serving").handlers = []
    (line,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert line["event"] == "reload refused" and line["reason"] == "/a/secret/place is gone"


def test_before_the_first_model_is_ready_no_other_is_loaded(monkeypatch, tmp_path):
    """It would be replaced by the first one when that is compiled at last."""
    go = threading.Event()
    honest = programs.load
    monkeypatch.setattr(programs, "load", lambda *args: go.wait(30) and honest(*args))
    (tmp_path / "keys").write_text(f"{ADMIN} admin\n")
    service = Service(served(0), lambda: served(1), SMALL)

    async def ask():
        await service.start()
        app = httpx.ASGITransport(create_app(service, read_keys(tmp_path / "keys")))
        async with httpx.AsyncClient(transport=app, base_url="http://here", headers=bearer(ADMIN)) as asking:
            early = await asking.post("/v1/model:reload")
            go.set()
            await service.wait()
            late = await asking.post("/v1/model:reload")
        await service.stop()
        return early, late

    early, late = asyncio.run(ask())
    assert early.status_code == 503 and int(early.headers["retry-after"]) > 0
    assert late.json()["model"] == "tiny-1" == service.served.id


class Fresh:
    """A net that is equal to no other, as an export's is."""

    def __call__(self, weights, images):
        return Outputs(images.reshape(len(images), -1) @ weights)


def test_a_model_that_is_replaced_is_forgotten_with_its_programs():
    def load():
        net = jax.tree_util.Partial(Fresh(), np.ones((64, 10), np.float32))
        loaded = programs.load(served(outputs_fn=net), SMALL)
        return loaded, weakref.ref(net.func)

    loaded, net = load()
    assert net() is not None
    del loaded
    gc.collect()
    assert net() is None


def test_two_reloads_at_once_are_one(client, shelf):
    go, inside = threading.Event(), threading.Event()

    def slowly():
        inside.set()
        assert go.wait(30)
        return served(1)

    shelf["next"] = slowly
    address, answers = f"{client.base_url}/v1/model:reload", []

    def post():
        answers.append(httpx.post(address, headers=bearer(ADMIN), timeout=60))

    first = threading.Thread(target=post)
    first.start()
    try:
        assert inside.wait(30)
        second = client.post("/v1/model:reload", headers=bearer(ADMIN))
        assert second.status_code == 409
        assert "already" in second.json()["detail"]
        assert recognise(client)["model"].startswith("tiny-"), "Images are answered meanwhile."
    finally:
        go.set()
        first.join(60)
    assert answers[0].status_code == 200


def test_answers_that_straddle_a_reload_are_of_one_model(monkeypatch):
    """The class is of the old model, the samples around it of the new one: both are asked again."""
    from jaxrobust.serving.service import Asked

    service = Service(served(0), settings=SMALL)
    fresh = programs.load(served(1), SMALL)

    async def ask():
        await service.start()
        await service.wait()
        honest = service._batcher._run_fn
        calls = []

        def swapping(name, rows):
            calls.append(name)
            answers = honest(name, rows)
            service.loaded = fresh  # from the second pass on
            return answers

        service._batcher._run_fn = swapping
        stable = await service.recognise(IMAGE, Asked(stability=True))
        first, calls[:], service.loaded = list(calls), [], programs.load(served(0), SMALL)
        explained = await service.explain(IMAGE, Asked(), None)
        await service.stop()
        return stable, first, explained, calls

    stable, first, explained, second = asyncio.run(ask())
    assert first == ["forward", "stability"] * 2 and stable["model"] == "tiny-1"
    assert second == ["forward", "explain"] * 2 and explained["model"] == "tiny-1"
    np.testing.assert_allclose(stable["distribution"], expected(1), atol=1e-6)

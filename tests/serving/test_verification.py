"""Two faces compared and looked for in a gallery, as `evaluation` compares them. Digits stand for faces."""

import httpx
import numpy as np
import pytest

from jaxrobust.data import Identities
from jaxrobust.evaluation._embed import cosines, embed
from jaxrobust.serving import Service
from tests.serving.service_under_test import SMALL, digits, encode, running, served

IMAGES = digits(6)
GALLERY = {"ann": IMAGES[:2], "bob": IMAGES[2:3], "cat": IMAGES[3:4]}


def face_model(threshold, **changes):
    """A net of random weights that verifies."""
    return served(threshold=threshold, **{"gallery": GALLERY, **changes})


def offline():
    """Cosines `[6, 6]` as an evaluation computes them."""
    people = Identities(
        images=IMAGES, identity=np.arange(6), names=tuple("abcdef"), name="x", files=(), fingerprint=""
    )
    net = served().outputs_fn
    units = embed(lambda x: net(x).embedding, people, np.arange(6), 6)
    first, second = np.divmod(np.arange(36), 6)
    return cosines(units, first, second).reshape(6, 6)


@pytest.fixture(scope="module")
def cosine():
    return offline()


@pytest.fixture(scope="module")
def threshold(cosine):
    """Between the pairs, so that both decisions are met with."""
    return float(np.median(cosine[np.triu_indices(6, 1)]))


@pytest.fixture(scope="module")
def client(threshold):
    with (
        running(Service(face_model(threshold), settings=SMALL)) as address,
        httpx.Client(base_url=address, timeout=60) as found,
    ):
        yield found


def verify(client, first, second):
    files = {"first": encode(IMAGES[first]), "second": encode(IMAGES[second])}
    return client.post("/v1/verify", files=files).json()


def test_pairs_are_decided_as_in_an_evaluation(client, cosine, threshold):
    decided = set()
    for first in range(6):
        for second in range(first, 6):
            answer = verify(client, first, second)
            assert answer["similarity"] == pytest.approx(cosine[first, second], abs=1e-5)
            assert answer["threshold"] == threshold
            assert answer["same_person"] == (answer["similarity"] >= threshold)
            decided.add(answer["same_person"])
    assert decided == {True, False}


def test_a_face_of_the_gallery_is_known_and_a_stranger_is_not(client, cosine, threshold):
    whose = {0: "ann", 1: "ann", 2: "bob", 3: "cat"}
    for probe in range(6):
        answer = client.post(
            "/v1/identify", content=encode(IMAGES[probe]), headers={"content-type": "image/png"}
        ).json()
        near = {}
        for image, name in whose.items():
            near[name] = max(near.get(name, -1), cosine[probe, image])
        best = max(near, key=near.get)
        assert [one["name"] for one in answer["nearest"]] == sorted(near, key=lambda name: -near[name])
        assert answer["similarity"] == pytest.approx(near[best], abs=1e-5) and answer["enrolled"] == 3
        if abs(near[best] - threshold) > 1e-4:
            assert answer["name"] == (best if near[best] >= threshold else None)
        if probe in whose:
            assert answer["name"] == whose[probe] and answer["similarity"] == pytest.approx(1)


def test_nobody_is_a_stranger_to_an_empty_gallery(cosine):
    model = face_model(0.999999, gallery={})
    with running(Service(model, settings=SMALL)) as address:
        body = {"content": encode(IMAGES[0]), "headers": {"content-type": "image/png"}}
        response = httpx.post(f"{address}/v1/identify", **body, timeout=60)
        assert response.status_code == 409 and "--gallery" in response.json()["detail"]
        assert httpx.post(f"{address}/v1/identify?angle=1", **body).status_code == 422
        assert httpx.get(f"{address}/v1/model").json()["tasks"] == ["recognise", "verify", "identify"]


def test_both_faces_must_be_there_and_be_images(client):
    png = encode(IMAGES[0])
    assert client.post("/v1/verify", files={"first": png}).status_code == 422
    assert client.post("/v1/verify", files={"first": png, "third": png}).status_code == 422
    wrong = client.post("/v1/verify", files={"first": png, "second": b"x"})
    assert wrong.status_code == 415 and wrong.json()["index"] == 1
    raw = client.post("/v1/verify", content=png, headers={"content-type": "image/png"})
    assert raw.status_code == 415

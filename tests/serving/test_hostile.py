"""What a hostile client sends: no 5xx, bounded memory, and the description holds under schemathesis."""

import contextlib
import gzip
import io
import socket
import struct
import time
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image

from jaxrobust.serving import Service, Settings
from jaxrobust.serving.images import decode
from jaxrobust.serving.problems import Problem
from tests.serving.service_under_test import SMALL, Command, digits, encode, running, served
from tests.serving.test_images import bomb, chunk, stripped, tiled

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(7)
PHOTO = np.asarray(Image.fromarray(RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((320, 240)))


def scans(side: int, num: int) -> bytes:
    """A progressive JPEG whose last scan comes `num` times: small, and long to decode."""
    body = encode(np.zeros((side, side), np.uint8), "JPEG", progressive=True)
    last = body.rindex(b"\xff\xda")
    return body[:-2] + body[last:-2] * num + b"\xff\xd9"


def text_bomb() -> bytes:
    """A PNG with a compressed text that unpacks to 100 MB."""
    plain = encode(PHOTO)
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8), 9))
    return plain[:33] + text + plain[33:]


def many_chunks() -> bytes:
    plain = encode(PHOTO)
    return plain[:33] + chunk(b"abCd", b"") * 300_000 + plain[33:]


def claimed(width: int, height: int) -> bytes:
    """A BMP that says it has so many pixels, and ends."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head + bytes(100)


def frames() -> bytes:
    image = Image.new("P", (1000, 1000))
    file = io.BytesIO()
    others = [Image.new("P", (1000, 1000), i) for i in range(1, 200)]
    image.save(file, "GIF", save_all=True, append_images=others)
    return file.getvalue()


BOMBS = {
    "pixels": bomb(100_000, 100_000),
    "just too many pixels": bomb(5001, 5000),
    "as many pixels as allowed": bomb(5000, 5000),
    "scans": scans(4096, 20_000),
    "text": text_bomb(),
    "chunks": many_chunks(),
    "BMP": claimed(2**30, 2**30),
    "frames": frames(),
    "TIFF": b"II*\x00" + b"\xff" * 500,
    "one tile": tiled(16_000),
    "one strip many times": stripped(5_000, b"\x80" * 1_040_000 + b"\0\x07"),
    "gzip": gzip.compress(bytes(10**7)),
    "nested": b"RIFF" + b"\xff\xff\xff\xffWEBPVP8X" + b"\xff" * 200,
}


@pytest.mark.parametrize("kind", ["scans", "chunks"])
def test_decoding_that_would_take_long_ends_near_its_limit(kind):
    began = time.monotonic()
    with pytest.raises(Problem) as refused:
        decode(BOMBS[kind], (8, 8, 1), Settings(decode_seconds=0.3))
    assert refused.value.status == 422 and "Decoding took over 0.3 s" in refused.value.detail
    assert time.monotonic() - began < 3


def mutants(num: int):
    """Damaged images of every kind: bytes flipped, cut out, doubled, swapped between files."""
    kinds = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]
    whole = [encode(PHOTO, kind) for kind in kinds]
    whole += [encode(PHOTO, "JPEG", progressive=True), encode(PHOTO[..., 0], "PNG")]
    for number in range(num):
        body = bytearray(whole[number % len(whole)])
        for _ in range(int(RNG.integers(1, 8))):
            place, length = int(RNG.integers(0, min(len(body), 600))), int(RNG.integers(1, 40))
            kind = int(RNG.integers(0, 4))
            if kind == 0:
                body[place] = int(RNG.integers(0, 256))
            elif kind == 1:
                del body[place : place + length]
            elif kind == 2:
                body[place:place] = RNG.bytes(length)
            else:
                other = whole[int(RNG.integers(0, len(whole)))]
                body[place : place + length] = other[place : place + length]
        yield bytes(body)


def forms(num: int):
    """Damaged forms, each with its content type."""
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    whole = part + encode(digits(1)[0]) + b"\r\n--b--\r\n"
    for number in range(num):
        body = bytearray(whole)
        for _ in range(int(RNG.integers(1, 6))):
            body[int(RNG.integers(0, min(len(body), 120)))] = int(RNG.integers(0, 256))
        boundary = [b"b", b"", b'"', b"x" * 300, b"b; charset=klingon", b"\xff\xfe"][number % 6]
        yield b"multipart/form-data; boundary=" + boundary, bytes(body)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from jaxrobust import experiments
    from jaxrobust.training import Runtime

    changes = ["num_steps=2", "validate_every=0", "data.num_validation=20"]
    experiment = experiments.apply_overrides(experiments.get("digits_srt"), changes)
    found = tmp_path_factory.mktemp("runs") / "digits"
    experiments.train(experiment, found, runtime=Runtime(num_devices=1), progress=False)
    return found


def test_a_thousand_hostile_bodies_are_no_5xx_and_memory_is_bounded(folder):
    body = encode(digits(1)[0])
    png = {"content-type": "image/png"}
    statuses = {}
    with (
        Command(folder, "--log-level", "warning", "--decode-seconds", 1) as command,
        httpx.Client(base_url=command.address, timeout=60) as client,
    ):

        def send(path, **options):
            try:
                response = client.post(path, **options)
            except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
                # The server had answered and closed while the client still sent.
                statuses["closed"] = statuses.get("closed", 0) + 1
                return
            assert response.status_code < 500, (response.status_code, path, options)
            if response.status_code >= 400:
                assert response.headers["content-type"] == "application/problem+json"
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1

        for _ in range(50):
            send("/v1/recognise", content=body, headers=png)
        send("/v1/recognise", content=BOMBS["as many pixels as allowed"], headers=png)
        before = command.memory()
        for kind in BOMBS.values():
            for _ in range(3):
                send("/v1/recognise", content=kind, headers=png)
        for mutant in mutants(650):
            send("/v1/recognise?view=1", content=mutant, headers=png)
        for kind, form in forms(200):
            send("/v1/recognise", content=form, headers={b"content-type": kind})
        for number in range(100):
            send("/v1/recognise:batch", content=RNG.bytes(number * 50), headers=png)
        for kind in ("", "text/plain", "multipart/form-data", "image/../..", "application/json", "\x7f"):
            send("/v1/explain", content=body, headers={"content-type": kind})
        for query in ("angle=" + "9" * 5000, "%00=%ff", "view=%F0%9F%92%A9", "&&&", "stability=1" * 50):
            send(f"/v1/recognise?{query}", content=body, headers=png)
        send("/v1/recognise", content=bytes(11 * 2**20), headers=png)
        send("/v1/recognise", content=iter([bytes(2**20)] * 12), headers=png)
        send("/v1/recognise", content=b"", headers={**png, "x": "y" * 12_000})
        assert sum(statuses.values()) >= 1_000
        assert statuses.get("closed", 0) <= 3, statuses
        assert statuses[200] > 50 and statuses[422] > 100 and statuses[413] >= 3, statuses
        assert client.post("/v1/recognise", content=body, headers=png).status_code == 200
        grown = command.memory() - before
        assert grown < 300 * 2**20, f"{grown / 2**20:.0f} MiB"
        assert command.stop() == 0
    assert not [line for line in command.errors if '"failed"' in line]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 10**6 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200_000 + b"\r\n",
        b"GET /" + b"a" * 10**6 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/recognise HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/recognise HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"POST /v1/recognise HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    ],
    ids=["long header", "many headers", "long address", "TLS", "negative length", "bad chunk", "two lengths"],
)
def test_a_head_that_is_too_large_or_wrong_is_refused(head):
    with running(Service(served(), settings=SMALL)) as address:
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            found = b""
            try:
                client.sendall(head)
                while block := client.recv(4096):
                    found += block
            except ConnectionError:
                pass
        # Who still sends when the answer comes may be reset and hear nothing; a short head hears.
        assert found.startswith(b"HTTP/1.1 4") or (len(head) > 10**5 and not found), found[:200]
        assert httpx.get(f"{address}/readyz").status_code == 200


@pytest.mark.parametrize("faces", [False, True], ids=["classes", "faces"])
def test_the_description_is_true_under_schemathesis(faces):
    """Every address, with valid and invalid parameters and bodies: it answers as it is described."""
    import schemathesis
    from hypothesis import HealthCheck, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        negative_data_rejection,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
        unsupported_method,
    )

    model = served(threshold=0.5, gallery={"ann": digits(1)}) if faces else served()
    checks = [
        schemathesis.checks.not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        unsupported_method,
        negative_data_rejection,
    ]
    with running(Service(model, settings=SMALL)) as address:
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        asked, every = 0, list(HealthCheck)
        for result in schema.get_all_operations():
            operation = result.ok()
            for mode in GenerationMode:

                @settings(max_examples=60, deadline=None, database=None, suppress_health_check=every)
                @schema_given(operation, mode)
                def examine(case):
                    nonlocal asked
                    asked += 1
                    case.call_and_validate(checks=checks)

                # An address without parameters has no invalid ones.
                with contextlib.nullcontext() if mode.is_positive else contextlib.suppress(Unsatisfiable):
                    examine()
    assert asked > 300


def schema_given(operation, mode):
    """Cases of an operation as a Hypothesis decorator."""
    from hypothesis import given

    return given(case=operation.as_strategy(generation_mode=mode))

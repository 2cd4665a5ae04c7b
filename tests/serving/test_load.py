"""Under load: 10,000 answers, each its own; SIGTERM and a swapped checkpoint lose no accepted image."""

import asyncio
import itertools
import json
import shutil
import signal
import socket
import time

import httpx
import numpy as np
import pytest

from jaxrobust import _cli_served, experiments
from jaxrobust.serving import programs
from tests.serving.service_under_test import SMALL, Command, encode

pytestmark = pytest.mark.slow

NUM = 64
PNG = {"content-type": "image/png"}
ADMIN = "a" * 24
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, 8, 8, 1), dtype=np.uint8)
BODIES = [encode(image) for image in IMAGES]


def train(folder, seed):
    """Two steps of digits: weights that differ by the seed."""
    from jaxrobust.training import Runtime

    changes = ["num_steps=2", "validate_every=0", "data.num_validation=20", f"seed={seed}"]
    experiment = experiments.apply_overrides(experiments.get("digits_standard"), changes)
    experiments.train(experiment, folder, runtime=Runtime(num_devices=1), progress=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        train(root / f"{seed}" / "digits", seed)
    return [root / f"{seed}" / "digits" for seed in (0, 1)]


@pytest.fixture(scope="module")
def expected(folders):
    """By the model's id, the distributions of all images, computed without a server."""
    found = {}
    for folder in folders:
        served = _cli_served.load(folder)
        loaded = programs.load(served, SMALL)
        found[served.id] = np.stack([loaded.run("forward", [programs.row(one)])[0][0] for one in IMAGES])
    assert len(found) == 2
    first, second = found.values()
    assert np.abs(first - second).max(axis=1).min() > 1e-3, "The two models can be told apart."
    images = first[:, None] - first[None]
    assert np.abs(images).max(axis=-1)[np.triu_indices(NUM, 1)].min() > 1e-4, "So can the images."
    return found


def check(answer, image, expected):
    np.testing.assert_allclose(answer["distribution"], expected[answer["model"]][image], atol=2e-6)


async def ask(client, image):
    return image, await client.post("/v1/recognise", content=BODIES[image], headers=PNG)


def client_of(command, connections):
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.AsyncClient(base_url=command.address, timeout=120, limits=limits)


async def rounds(client, total, workers, on_answer):
    """`workers` ask one image after the other, `total` in all."""
    numbers = iter(range(total))

    async def worker():
        for number in numbers:
            image, response = await ask(client, number % NUM)
            on_answer(image, response)

    await asyncio.gather(*(worker() for _ in range(workers)))


def test_ten_thousand_answers_are_each_their_own(folders, expected):
    answered = []

    def on_answer(image, response):
        assert response.status_code == 200, response.text
        check(response.json(), image, expected)
        answered.append(image)

    async def load(command):
        async with client_of(command, 24) as client:
            await rounds(client, 10_000, 24, on_answer)
            return (await client.get("/metrics")).text

    with Command(folders[0], "--max-batch", 16, "--log-level", "warning") as command:
        metrics = asyncio.run(load(command))
    assert len(answered) == 10_000
    assert 'jaxrobust_requests_total{route="/v1/recognise",status="200"} 10000.0' in metrics
    passes = float(metrics.partition('jaxrobust_batch_images_count{program="forward"} ')[2].split()[0])
    assert passes < 9_000, "Images share passes."


def test_overload_is_429_at_once_and_not_a_timeout(folders, expected):
    counts = {200: 0, 429: 0}

    async def flood(command):
        async with client_of(command, 200) as client:

            async def one(number):
                image, response = await ask(client, number % NUM)
                counts[response.status_code] += 1
                if response.status_code == 200:
                    check(response.json(), image, expected)
                else:
                    assert response.headers["retry-after"] == "1"

            await asyncio.gather(*(one(number) for number in range(1_000)))

    with Command(folders[0], "--max-batch", 2, "--max-queue", 4, "--log-level", "warning") as command:
        asyncio.run(asyncio.wait_for(flood(command), 120))
    assert counts[200] + counts[429] == 1_000 and counts[200] >= 4 and counts[429] > 0, counts


def test_sigterm_under_load_loses_none_that_was_accepted(folders, expected):
    """Every request either has its whole right answer, or never reached the application."""
    answered, unheard = [], []

    async def load(command):
        async with client_of(command, 32) as client:
            enough = asyncio.Event()

            async def worker(start):
                number = start
                while True:
                    try:
                        image, response = await ask(client, number % NUM)
                    except httpx.TransportError as error:
                        unheard.append(type(error).__name__)
                        return
                    assert response.status_code == 200, response.text
                    check(response.json(), image, expected)
                    answered.append(image)
                    number += 7
                    if len(answered) > 300:
                        enough.set()

            workers = [asyncio.create_task(worker(i)) for i in range(32)]
            await enough.wait()
            code = await asyncio.to_thread(command.stop)
            await asyncio.gather(*workers)
            return code

    # Slow to fill its batches, so that many images wait while the signal comes.
    with Command(folders[0], "--max-batch", 64, "--max-wait-ms", 30) as command:
        assert asyncio.run(asyncio.wait_for(load(command), 180)) == 0
        lines = [json.loads(line) for line in command.errors if line.startswith("{")]
    requests = [one for one in lines if one["event"] == "request" and one["route"] == "/v1/recognise"]
    assert {one["status"] for one in requests} == {200}
    assert len(requests) == len(answered) and len(unheard) == 32
    assert [one["images_left"] for one in lines if one["event"] == "stopped"] == [0]


def test_a_second_ctrl_c_ends_the_draining_and_loses_none_that_was_accepted(folders):
    with Command(folders[0], "--drain-seconds", 60) as command:
        head = "POST /v1/recognise HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        head += f"Content-Length: {len(BODIES[0])}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(command.address.rpartition(":")[2]))) as slow:
            slow.sendall(head.encode() + BODIES[0][:-1])
            time.sleep(0.5)
            for _ in range(2):
                command.process.send_signal(signal.SIGINT)
                time.sleep(0.5)
            slow.sendall(BODIES[0][-1:])
            slow.settimeout(20)
            assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        assert command.process.wait(30) == 0


def test_a_checkpoint_swapped_under_load_fails_no_request(folders, expected, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"{ADMIN} admin\n")
    folder = tmp_path / "digits"
    shutil.copytree(folders[0], folder)
    key = {"x-api-key": ADMIN}
    models = []

    async def load(command):
        async with client_of(command, 16) as client:
            done = asyncio.Event()

            async def worker(start):
                number = start
                while not done.is_set():
                    image = number % NUM
                    response = await client.post(
                        "/v1/recognise", content=BODIES[image], headers={**PNG, **key}
                    )
                    assert response.status_code == 200, response.text
                    check(response.json(), image, expected)
                    models.append(response.json()["model"])
                    number += 7

            workers = [asyncio.create_task(worker(i)) for i in range(16)]
            for source in (folders[1], folders[0], folders[1]):
                await asyncio.sleep(0.3)
                await asyncio.to_thread(swap, source, folder)
                answer = await client.post("/v1/model:reload", headers=key)
                assert answer.status_code == 200, answer.text
            await asyncio.sleep(0.3)
            done.set()
            await asyncio.gather(*workers)

    with Command(folder, "--api-key-file", keys, "--log-level", "warning") as command:
        asyncio.run(asyncio.wait_for(load(command), 180))
    changes = sum(before != after for before, after in itertools.pairwise(models))
    assert set(models) == set(expected) and len(models) > 100 and changes >= 3


def swap(source, folder):
    """Another run at the same place, as `rsync` or a deployment puts it."""
    shutil.rmtree(folder)
    shutil.copytree(source, folder)

"""The service on loopback: requests per second and latency against batch settings, beside the bare model.

    python -m benchmarks.service [--experiments mnist_srt ...] [--requests 3000] [--out docs/results/service]

For each experiment's net, with random weights: `jaxrobust export` writes it, `jaxrobust serve` serves the
export in a process of its own, and this process asks it over keep-alive connections, one question at a time
on each, with requests that were made beforehand. Every answer is compared with the offline prediction of its
image after the clock has stopped. The bare model is the same program, jitted on uint8 pixels, called in a
loop in this process before and after the server runs, at the batch size in question: the best second of ten.
Client and server share the cores.
"""

import argparse
import asyncio
import dataclasses
import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from benchmarks import _machine
from jaxrobust import _cli_served, experiments, models
from jaxrobust.serving import Settings, programs

ROOT = Path(__file__).resolve().parent.parent
NUM_IMAGES = 64
TOLERANCE = 1e-4
SECONDS = 30.0
"""The longest that one measurement asks."""


class Way(NamedTuple):
    """How a server is set up and asked: images in one request, requests at once."""

    max_batch: int
    max_wait_ms: float
    images: int
    connections: int


WAYS = (
    Way(1, 0, 1, 1),
    Way(1, 0, 1, 64),
    Way(8, 2, 1, 64),
    Way(32, 2, 1, 64),
    Way(32, 10, 1, 64),
    Way(32, 2, 32, 4),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and writes rows and a page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--experiments", nargs="+", default=["digits_srt", "mnist_srt", "cifar10_spatial_srt"]
    )
    parser.add_argument("--requests", type=int, default=3000, help="the most of one measurement")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "service")
    parser.add_argument("--note", default="", help="a sentence about the machine, for the page")
    given = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for name in given.experiments:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(name, Path(folder) / name, given.requests)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (given.out / "README.md").write_text(page(rows, given))


def measure(name: str, folder: Path, requests: int) -> list[dict[str, Any]]:
    """All ways of one net."""
    export(name, folder)
    served = _cli_served.load(folder)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, *served.image_shape), dtype=np.uint8)
    bodies = [png(image) for image in images]
    loaded = programs.load(dataclasses.replace(served, neighbourhood=None), Settings(max_batch=32))
    expected = np.stack([loaded.run("forward", [programs.row(image)])[0][0] for image in images])
    rows = []
    for way in WAYS:
        bare = bare_rate(loaded, images, way.max_batch)
        load = _machine.load()
        with Server(folder, way) as server:
            asyncio.run(ask(server.port, bodies, way, 20 * way.connections))
            times, answers, seconds = asyncio.run(ask(server.port, bodies, way, requests))
        bare = max(bare, bare_rate(loaded, images, way.max_batch))
        wrong = check(answers, expected, way.images)
        row = {
            "experiment": name,
            **way._asdict(),
            "requests": len(times),
            "wrong": wrong,
            "requests_per_second": len(times) / seconds,
            "images_per_second": way.images * len(times) / seconds,
            "bare_images_per_second": bare,
            "share_of_bare": way.images * len(times) / seconds / bare,
            "p50_ms": 1000 * statistics.median(times),
            "p99_ms": 1000 * float(np.quantile(times, 0.99)),
            "hardware": _machine.hardware(),
            "load": load,
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def export(name: str, folder: Path) -> None:
    """The experiment's net with random weights, as a folder that can be served."""
    experiment = experiments.get(name)
    shape = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}[experiment.data.dataset]
    model = models.build(experiment.model, shape)
    params, stats = jax.tree.map(np.asarray, model.init(jax.random.key(0)))
    with tempfile.TemporaryDirectory() as runs:
        run = experiments.Run(
            folder=Path(runs) / name, experiment=experiment, model=model, params=params, stats=stats, step=0,
            class_names=tuple(str(i) for i in range(model.num_classes)),
        )  # fmt: skip
        run.folder.mkdir()
        (run.folder / "config.json").write_text("{}")
        experiments.export_run(run, folder, evaluate=False, gradients=False)


def png(image: np.ndarray) -> bytes:
    """One file."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()


def bare_rate(loaded: programs.Loaded, images: np.ndarray, size: int) -> float:
    """Images per second of the jitted model alone: the best of five second-long loops."""
    rows = [programs.row(image) for image in images[:size]]
    batch = programs.Row(*(np.stack(column) for column in zip(*rows)))
    program, _ = loaded.programs["forward"]
    compiled = programs._compile(program, loaded.served.outputs_fn, batch)
    weights = jax.tree.leaves(loaded.served.outputs_fn)
    jax.block_until_ready(compiled(weights, batch))
    rates = []
    for _ in range(5):
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < 1.0:
            jax.device_get(compiled(weights, batch))
            count += size
        rates.append(count / (time.perf_counter() - began))
    return max(rates)


class Server:
    """`jaxrobust serve` of an export."""

    def __init__(self, folder: Path, way: Way):
        options = {"--max-batch": way.max_batch, "--max-wait-ms": way.max_wait_ms, "--max-queue": 1024}
        line = [sys.executable, "-m", "jaxrobust", "serve", str(folder), "--port", "0"]
        line += ["--log-level", "warning"] + [str(one) for option in options.items() for one in option]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.process.stdout is not None
        found = re.search(r"http://[^:]+:(\d+)", self.process.stdout.readline())
        assert found, "The server did not start."
        self.port = int(found[1])

    def __enter__(self) -> "Server":
        asyncio.run(ready(self.port))
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()


async def ready(port: int) -> None:
    """Until `/readyz` says so, at most two minutes."""
    for _ in range(1200):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        status, _ = await exchange(reader, writer, b"GET /readyz HTTP/1.1\r\nHost: here\r\n\r\n")
        writer.close()
        if status == 200:
            return
        await asyncio.sleep(0.1)
    raise TimeoutError("The server was not ready in two minutes.")


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes]:
    """Status and body of one request on a connection that is kept."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
    return int(head[9:12]), await reader.readexactly(length)


def requests_of(bodies: Sequence[bytes], images: int) -> list[bytes]:
    """The bytes of a request for each first image: raw for one, a form for several."""
    found = []
    for start in range(len(bodies)):
        if images == 1:
            path, kind, body = "/v1/recognise", "image/png", bodies[start]
        else:
            parts = [bodies[(start + i) % len(bodies)] for i in range(images)]
            head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
            body = b"".join(head + part + b"\r\n" for part in parts) + b"--b--\r\n"
            path, kind = "/v1/recognise:batch", "multipart/form-data; boundary=b"
        lines = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
        found.append(lines.encode() + b"\r\n\r\n" + body)
    return found


async def ask(
    port: int, bodies: Sequence[bytes], way: Way, most: int
) -> tuple[list[float], list[tuple[int, bytes]], float]:
    """Latencies, answers with the number of their first image, and the seconds that all took."""
    requests = requests_of(bodies, way.images)
    numbers = iter(range(max(way.connections, most // way.images)))
    times: list[float] = []
    answers: list[tuple[int, bytes]] = []
    end = time.perf_counter() + SECONDS

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            start = number % len(requests)
            began = time.perf_counter()
            status, body = await exchange(reader, writer, requests[start])
            times.append(time.perf_counter() - began)
            assert status == 200, body
            answers.append((start, body))
            if time.perf_counter() > end:
                break
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(way.connections)))
    return times, answers, time.perf_counter() - began


def check(answers: Sequence[tuple[int, bytes]], expected: np.ndarray, images: int) -> int:
    """How many distributions are not those of their image."""
    wrong = 0
    for start, body in answers:
        found = json.loads(body)
        results = [found] if images == 1 else found["results"]
        assert len(results) == images
        for i, one in enumerate(results):
            difference = np.abs(np.array(one["distribution"]) - expected[(start + i) % len(expected)])
            wrong += bool(difference.max() > TOLERANCE)
    return wrong


def page(rows: Sequence[dict[str, Any]], given: argparse.Namespace) -> str:
    """The table, with what it was measured on."""
    line = f"python -m benchmarks.service --experiments {' '.join(given.experiments)}"
    line += f" --requests {given.requests}"
    loads = [row["load"] for row in rows]
    head = (
        "| net | max batch | max wait, ms | images a request | connections | requests/s | images/s | "
        "p50, ms | p99, ms | bare model, images/s | share of bare |"
    )
    table = [head, "|-" * 11 + "|"]
    for row in rows:
        table.append(
            f"| {row['experiment']} | {row['max_batch']} | {row['max_wait_ms']:g} | {row['images']} | "
            f"{row['connections']} | {row['requests_per_second']:.0f} | {row['images_per_second']:.0f} | "
            f"{row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {row['bare_images_per_second']:.0f} | "
            f"{row['share_of_bare']:.0%} |"
        )
    wrong, num = sum(row["wrong"] for row in rows), sum(row["images"] * row["requests"] for row in rows)
    how = " ".join(str(__doc__).split("\n\n", 2)[2].split())
    return "\n".join(
        [
            "# Speed of the service on loopback",
            "",
            f"```\n{line}\n```",
            "",
            f"Written by the command above; `rows.jsonl` has every number. {how}",
            "",
            f"{rows[0]['hardware']}; {given.note or 'other processes ran as the load says'}: the load "
            f"average was {min(loads):g} to {max(loads):g}. Of {num:,} answers {wrong} were not those of "
            "their image.",
            "",
            *table,
            "",
        ]
    )


if __name__ == "__main__":
    os.chdir(ROOT)
    main()

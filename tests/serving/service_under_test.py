"""Models, images and servers that the tests of the service share."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import jax
import numpy as np
import uvicorn
from PIL import Image

from jaxrobust import data, models
from jaxrobust._cli_served import _OfRun
from jaxrobust.models import TinyCNN
from jaxrobust.neighbourhoods import LInf
from jaxrobust.serving import Keys, Served, Service, Settings, create_app
from jaxrobust.serving.server import configuration

ROOT = Path(__file__).resolve().parents[2]
NAMES = tuple(f"digit {i}" for i in range(10))
SMALL = Settings(max_batch=4, max_wait_ms=1.0, max_queue=16, stability_samples=4)


def served(seed: int = 0, shape: tuple[int, int, int] = (8, 8, 1), **changes) -> Served:
    """A net of random weights; another seed is another checkpoint of the same net."""
    model = models.build(TinyCNN(widths=(4, 8), hidden=8, num_classes=10), shape)
    params, stats = jax.tree.map(np.asarray, model.init(jax.random.key(seed)))
    options = {
        "id": f"tiny-{seed}",
        "outputs_fn": jax.tree_util.Partial(_OfRun(model), params, stats),
        "image_shape": shape,
        "class_names": NAMES,
        "card": {"name": "tiny"},
        "neighbourhood": LInf(eps=0.3),
        "neighbourhood_words": "a ball",
    }
    return Served(**{**options, **changes})


def digits(num: int = 10) -> np.ndarray:
    """uint8 `[n, 8, 8, 1]`."""
    return np.asarray(data.load("digits").test.images[:num])


def encode(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    """uint8 `[h, w, c]` or `[h, w]` as a file."""
    file = io.BytesIO()
    squeezed = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    Image.fromarray(squeezed).save(file, kind, **options)
    return file.getvalue()


@contextlib.contextmanager
def running(service: Service, keys: Keys | None = None):
    """The service behind a socket of this process; gives its address."""
    server = uvicorn.Server(configuration(create_app(service, keys), "127.0.0.1", 0))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "The server did not start."
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        wait_ready(address)
        yield address
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def wait_ready(address: str, seconds: float = 120) -> None:
    """Until `/readyz` says so."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/readyz").status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"{address} was not ready in {seconds} s.")


class Command:
    """`jaxrobust serve` in a process of its own."""

    def __init__(self, *arguments: str | Path):
        environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        line = [sys.executable, "-m", "jaxrobust", "serve", *map(str, arguments), "--port", "0"]
        self.process = subprocess.Popen(
            line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        self.errors: list[str] = []
        self._reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self._reader.start()
        first = self.process.stdout.readline()
        found = re.search(r"http://\S+", first)
        if not found:
            self.process.wait(60)
            raise AssertionError(f"It did not start: {first}{''.join(self.errors)}")
        self.address = found[0]
        wait_ready(self.address)

    def stop(self, seconds: float = 60) -> int:
        """SIGTERM; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code

    def memory(self) -> int:
        """The most bytes that were resident at once."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)
        self.process.stdout.close()
        self._reader.join(10)
        self.process.stderr.close()

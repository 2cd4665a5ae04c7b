"""The service without HTTP: the model in use, its queue and threads, and what is said of an image."""

import asyncio
import functools
import hashlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxrobust.serving import batching, images, programs
from jaxrobust.serving.batching import Admission, Batcher
from jaxrobust.serving.logs import log
from jaxrobust.serving.metrics import Metrics
from jaxrobust.serving.problems import Problem, not_ready, parameter
from jaxrobust.serving.programs import Loaded, Row
from jaxrobust.serving.served import LoadFn, Served, Settings

T = TypeVar("T")


class Asked(NamedTuple):
    """What is asked of one image beside its class.

    Attributes:
        angle, down, right: how it is moved first, in degrees and in the model's pixels.
        top: how many classes to name.
        stability: whether to look around it. view: whether to show it as the model sees it.
        prepared: it has the model's size already.
    """

    angle: float = 0.0
    down: float = 0.0
    right: float = 0.0
    top: int = 5
    stability: bool = False
    view: bool = False
    prepared: bool = False

    @property
    def moves(self) -> bool:
        """Whether the image is moved."""
        return bool(self.angle or self.down or self.right)

    def row(self, pixels: np.ndarray, **more: Any) -> Row:
        """The row of an image, moved as asked."""
        return programs.row(pixels, angle=self.angle, down=self.down, right=self.right, **more)


class Service:
    """Holds one model and answers about images; made anywhere, started in an event loop.

    Args:
        served: the model.
        load_fn: reads it again, for `reload`; None where it cannot be.
        settings: its limits.
        on_failure: called where the model cannot be made ready at the start.

    Raises:
        ValueError: where the queue is too short for a pair of faces.
    """

    def __init__(
        self,
        served: Served,
        load_fn: LoadFn | None = None,
        settings: Settings | None = None,
        on_failure: Callable[[BaseException], None] = lambda error: None,
    ):
        self.settings = settings or Settings()
        if served.threshold is not None and self.settings.max_queue < 2:
            raise ValueError(
                "Expected max_queue >= 2 for a model that verifies, got 1: a pair is two images."
            )
        self.first, self.load_fn, self.on_failure = served, load_fn, on_failure
        self.metrics = Metrics()
        self.admission = Admission(self.settings.max_queue, self.settings.bytes_in_flight)
        self.metrics.waiting.set_function(lambda: self.admission.images)
        self.metrics.ready.set_function(lambda: float(self.is_ready))
        self.loaded: Loaded | None = None
        self.draining = False
        self._batcher: Batcher | None = None
        self._pool = ThreadPoolExecutor(self.settings.decode_threads, thread_name_prefix="decode")
        self._decoders = asyncio.Semaphore(self.settings.decode_threads)
        self._starting: asyncio.Task | None = None
        self._reloading = asyncio.Lock()

    @property
    def is_ready(self) -> bool:
        """Whether new images are welcome; while it drains they are answered, and should go elsewhere."""
        return self.loaded is not None and not self.draining

    @property
    def served(self) -> Served:
        """The model in use, or the one that will be."""
        return self.first if self.loaded is None else self.loaded.served

    async def start(self) -> None:
        """Begins to compile; returns at once, so that `/healthz` answers meanwhile."""
        self._starting = asyncio.create_task(self._start())

    async def wait(self) -> None:
        """Until the model is ready, or has failed to be: its error is raised."""
        assert self._starting is not None
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        began = time.monotonic()
        try:
            loaded = await asyncio.to_thread(programs.load, self.first, self.settings)
        except Exception as error:
            log("not ready", level=logging.ERROR, error=error, reason=str(error))
            self.on_failure(error)
            raise
        most = {name: max(sizes) for name, (_, sizes) in loaded.programs.items()}
        self._batcher = Batcher(self._run, most, self.settings.max_wait_ms / 1000)
        self._use(loaded)
        log("ready", model=loaded.served.id, seconds=round(time.monotonic() - began, 3))

    async def stop(self) -> None:
        """Answers what was accepted, then ends the threads."""
        if self._starting is not None:
            await asyncio.wait([self._starting])
            # What it raised is in the log, and has been told to `on_failure`.
            self._starting.exception()
        if self._batcher is not None:
            await self._batcher.close()
        self._pool.shutdown(wait=True)
        log("stopped", images_left=self.admission.images)

    def _use(self, loaded: Loaded) -> None:
        if self.loaded is not None:
            self.metrics.model.remove(self.loaded.served.id)
        self.loaded = loaded
        self.metrics.model.labels(loaded.served.id).set(1)

    def _run(self, name: str, rows: Sequence[Row]) -> list[tuple[Loaded, tuple[np.ndarray, ...]]]:
        """In the device's thread: answers, each with the model that gave it."""
        loaded, began = self.loaded, time.monotonic()
        assert loaded is not None
        found = loaded.run(name, rows)
        self.metrics.device.labels(name).observe(time.monotonic() - began)
        self.metrics.rows.labels(name).observe(len(rows))
        self.metrics.images.labels(name).inc(len(rows))
        return [(loaded, answer) for answer in found]

    async def _ask(self, name: str, row: Row) -> tuple[Loaded, tuple[np.ndarray, ...]]:
        assert self._batcher is not None
        # Before it is queued: a batch is stacked, and one row of another shape would fail all of it.
        assert row.pixels.shape == self.served.image_shape, row.pixels.shape
        return await self._batcher.submit(name, row)

    async def decode(self, body: bytes, *, prepared: bool = False) -> np.ndarray:
        """The pixels of an uploaded image; raises `Problem`, also where no decoder is free in time.

        Cancelled while it decodes, it ends when that has: nothing is left running.
        """

        def work() -> np.ndarray:
            began = time.monotonic()
            try:
                shape, margin = self.served.image_shape, self.served.margin
                return images.decode(body, shape, self.settings, margin=margin, prepared=prepared)
            finally:
                self.metrics.decoding.observe(time.monotonic() - began)

        try:
            async with asyncio.timeout(batching.PATIENCE):
                await self._decoders.acquire()
        except TimeoutError:
            raise batching.waited() from None
        decoding = asyncio.ensure_future(self._in_pool(work))
        decoding.add_done_callback(self._decoded)
        try:
            return await asyncio.shield(decoding)
        except asyncio.CancelledError:
            await asyncio.wait([decoding])
            raise

    def _decoded(self, decoding: asyncio.Task[np.ndarray]) -> None:
        self._decoders.release()
        # Of a request that has failed meanwhile nobody else asks for it, and asyncio would write it out.
        if not decoding.cancelled():
            decoding.exception()

    async def _in_pool(self, work: Callable[[], T]) -> T:
        """Pillow's work, beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def recognise(self, pixels: np.ndarray, asked: Asked) -> dict[str, Any]:
        """The class and distribution of an image, and what else is asked."""
        if asked.stability and self.served.neighbourhood is None:
            detail = "there is no neighbourhood to sample: the model was trained without, and none was given."
            raise parameter("stability", detail)
        while True:
            loaded, answer = await self._ask("moved" if asked.moves else "forward", asked.row(pixels))
            found = _answer(loaded.served, answer[0], asked.top)
            if asked.view:
                seen = answer[-1] if asked.moves else pixels
                found["view"] = await self._in_pool(functools.partial(images.data_url, seen))
            if not asked.stability:
                return found
            seed = _seed(pixels, self.settings.seed)
            row = asked.row(pixels, label=found["class"], seed=seed)
            same, (classes,) = await self._ask("stability", row)
            # Both of one model, also while another one comes.
            if same is loaded:
                return {**found, "stability": _stability(loaded.served, found["class"], classes)}

    async def explain(self, pixels: np.ndarray, asked: Asked, label: int | None) -> dict[str, Any]:
        """`recognise`, and where the image supports the class, or another one."""
        while True:
            found = await self.recognise(pixels, asked)
            # Of the class that the model names, or of the one that is asked about.
            explained = found["class"] if label is None else label
            num = len(found["distribution"])
            if explained >= num:
                raise parameter("class", f"expected 0 to {num - 1}, got {explained}.")
            loaded, (heat,) = await self._ask("explain", asked.row(pixels, label=explained))
            if loaded.served.id == found["model"]:
                break
        largest = float(np.abs(heat).max())
        scaled = heat / largest if largest > 0 else heat
        method = loaded.programs["explain"][0].method
        return {
            **found,
            "explained": {
                "class": explained,
                "name": loaded.served.class_names[explained],
                "method": f"occlusion, window {method.window}, stride {method.stride}",
                "largest": largest,
                "map": np.round(scaled.astype(np.float64), 4).tolist(),
            },
        }

    async def embed(self, pixels: np.ndarray) -> tuple[Loaded, np.ndarray]:
        """The unit embedding of a face, and the model that gave it."""
        loaded, answer = await self._ask("forward", programs.row(pixels))
        return loaded, programs.unit(answer[1])

    async def reload(self) -> dict[str, Any]:
        """Loads the model again and puts it in the place of the one in use, between two batches."""
        if self.load_fn is None:
            raise Problem(409, "conflict", "This server was given a model and no place to load it from.")
        if self.loaded is None:
            raise not_ready("The model is being compiled. Load it again once it is ready.")
        if self._reloading.locked():
            raise Problem(409, "conflict", "The model is being loaded already. Wait for that.")
        async with self._reloading:
            began, before = time.monotonic(), self.served
            try:
                loaded = await asyncio.to_thread(self._load_again, before)
            except Exception as error:
                self.metrics.reloads.labels("refused").inc()
                log("reload refused", level=logging.ERROR, error=error, reason=str(error))
                # What is wrong is for who runs the server; their files' places stay out of the answer.
                raise Problem(
                    409, "conflict", "The model could not be loaded, the one in use stays: "
                    f"{error if isinstance(error, _Unlike) else type(error).__name__}. See the server's log.",
                ) from None  # fmt: skip
            self._use(loaded)
            self.metrics.reloads.labels("done").inc()
            seconds = round(time.monotonic() - began, 3)
            log("reloaded", model=loaded.served.id, before=before.id, seconds=seconds)
            return {"model": loaded.served.id, "before": before.id, "seconds": seconds}

    def _load_again(self, before: Served) -> Loaded:
        assert self.load_fn is not None
        found = self.load_fn()
        # Rows of the old one may be waiting: what they are made of stays.
        for name in ("image_shape", "margin"):
            if getattr(found, name) != getattr(before, name):
                raise _Unlike(f"its {name} is another; start the server again")
        for name in ("neighbourhood", "threshold"):
            if (getattr(found, name) is None) != (getattr(before, name) is None):
                raise _Unlike(f"one of both has no {name}; start the server again")
        return programs.load(found, self.settings, self.loaded)


class _Unlike(ValueError):
    """A model that cannot take the other's place."""


def _answer(served: Served, probabilities: np.ndarray, top: int) -> dict[str, Any]:
    """The fields of every answer about an image."""
    values = [float(p) for p in probabilities]
    if not all(map(math.isfinite, values)):
        raise RuntimeError("The model's answer is not finite.")
    order = np.argsort(-probabilities, kind="stable")[:top]
    best = int(order[0])
    return {
        "model": served.id,
        "class": best,
        "name": served.class_names[best],
        "probability": values[best],
        "top": [
            {"class": int(i), "name": served.class_names[int(i)], "probability": values[int(i)]}
            for i in order
        ],
        "distribution": values,
    }


def _stability(served: Served, label: int, classes: np.ndarray) -> dict[str, Any]:
    """How often the class changed, and to what."""
    counts = Counter(int(one) for one in classes)
    changed = len(classes) - counts[label]
    return {
        "neighbourhood": served.neighbourhood_words,
        "samples": len(classes),
        "changed": changed,
        "share_changed": changed / len(classes),
        "classes": [
            {"class": one, "name": served.class_names[one], "count": count}
            for one, count in counts.most_common()
        ],
    }


def _seed(pixels: np.ndarray, seed: int) -> int:
    """Equal images draw equally."""
    digest = hashlib.sha256(pixels.tobytes() + seed.to_bytes(16, "little", signed=False)).digest()
    return int.from_bytes(digest[:4], "little")

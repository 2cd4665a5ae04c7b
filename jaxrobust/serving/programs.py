"""What the model computes for answers: row-wise programs of a few fixed shapes, compiled before use.

A program is `fn(net, *rows) -> arrays`, `net` being the pytree `Served.outputs_fn`: weights are arguments, so
that a reloaded model of an equal net compiles nothing. What is compiled belongs to `Loaded` and goes with it.
Batches are filled up by their last row.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import data, saliency
from jaxrobust.neighbourhoods import Pose, RotationTranslation
from jaxrobust.numerics import compile as compiler
from jaxrobust.serving.served import Served, Settings
from jaxrobust.types import Array, Example, Outputs, PyTree

_WINDOWS = 8


class Row(NamedTuple):
    """One image on its way to the model.

    Attributes:
        pixels: uint8 `[h, w, c]`.
        angle: degrees, counter-clockwise. shift: `[2]` (down, right) in the model's pixels.
        label: the class to explain.
        seed: of the draws of a neighbourhood.
    """

    # On the host one row, NumPy's; within a program a batch of them, traced.
    pixels: Any
    angle: Any
    shift: Any
    label: Any
    seed: Any


def row(
    pixels: np.ndarray, *, angle: float = 0, down: float = 0, right: float = 0, label: int = 0, seed: int = 0
) -> Row:
    """A `Row` of plain numbers."""
    return Row(
        pixels,
        np.float32(angle),
        np.array([down, right], np.float32),
        np.int32(label),
        np.uint32(seed),
    )


@dataclass(frozen=True)
class _Forward:
    """`(probabilities [b, k], embeddings [b, d])` of the images as they are."""

    embeds: bool

    def __call__(self, net: PyTree, rows: Row) -> tuple[Array, ...]:
        return _answers(net(data.to_float(rows.pixels)), self.embeds)


@dataclass(frozen=True)
class _Moved:
    """The same of the images turned and shifted, and these images, uint8 `[b, h, w, c]`, to look at."""

    embeds: bool

    def __call__(self, net: PyTree, rows: Row) -> tuple[Array, ...]:
        images = _moved(rows)
        shown = jnp.round(images * 255).astype(jnp.uint8)
        return (*_answers(net(images), self.embeds), shown)


@dataclass(frozen=True)
class _Sampled:
    """Classes `[b, n]` of n draws of the neighbourhood around each image, turned and shifted first."""

    neighbourhood: Any
    num: int

    def __call__(self, net: PyTree, rows: Row) -> tuple[Array, ...]:
        images = _moved(rows)

        def around(image: Array, label: Array, seed: Array) -> Array:
            example = Example(image, label)

            def draw(key: Array) -> Array:
                theta = self.neighbourhood.sample(key, example)
                return self.neighbourhood.apply(example, theta)

            return jax.vmap(draw)(jax.random.split(jax.random.key(seed), self.num))

        drawn = jax.vmap(around)(images, rows.label, rows.seed)
        logits = net(drawn.reshape(-1, *images.shape[1:])).logits
        return (logits.argmax(axis=-1).reshape(images.shape[0], self.num),)


@dataclass(frozen=True)
class _Explained:
    """Maps `[b, h, w]`: the fall of the class's logit where a window is covered by mid-grey."""

    method: saliency.Occlusion

    def __call__(self, net: PyTree, rows: Row) -> tuple[Array, ...]:
        images = _moved(rows)
        target_fn = saliency.class_logit(jax.tree_util.Partial(_logits, net))
        keys = jax.random.split(jax.random.key(0), images.shape[0])
        return (self.method(keys, target_fn, Example(images, rows.label), baseline=0.5),)


def _logits(net: PyTree, images: Array, example: Example) -> Array:
    return net(images).logits


def _answers(outputs: Outputs, embeds: bool) -> tuple[Array, ...]:
    found = (jax.nn.softmax(outputs.logits.astype(jnp.float32), axis=-1),)
    if not embeds:
        return found
    if outputs.embedding is None:
        raise ValueError("The model gives no embedding (Outputs.embedding), and verifies nobody.")
    return (*found, outputs.embedding.astype(jnp.float32))


def _moved(rows: Row) -> Array:
    """The pose of rest gives the images back bit by bit."""
    moves = RotationTranslation(max_angle=180.0, max_shift=1.0)

    def move(pixels: Array, angle: Array, shift: Array) -> Array:
        return moves.apply(Example(data.to_float(pixels), jnp.int32(0)), Pose(angle, shift))

    return jax.vmap(move)(rows.pixels, rows.angle, rows.shift)


def occlusion(height: int, width: int) -> saliency.Occlusion:
    """Windows of a quarter of the image's shorter side, at half their side from each other.

    >>> occlusion(28, 28)
    Occlusion(window=8, stride=4)
    """
    stride = max(1, -(-min(height, width) // _WINDOWS))
    return saliency.Occlusion(window=min(2 * stride, height, width), stride=stride)


def programs(served: Served, settings: Settings) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """The programs of a model by name, each with the numbers of rows that it is compiled for."""
    embeds, sizes = served.threshold is not None, settings.batch_sizes
    height, width, _ = served.image_shape
    found: dict[str, tuple[Any, tuple[int, ...]]] = {
        "forward": (_Forward(embeds), sizes),
        "moved": (_Moved(embeds), (1,)),
        "explain": (_Explained(occlusion(height, width)), (1,)),
    }
    if served.neighbourhood is not None:
        found["stability"] = (_Sampled(served.neighbourhood, settings.stability_samples), (1,))
    return found


class Loaded(NamedTuple):
    """A model that is ready: what it serves, its programs, the embeddings of its gallery.

    Attributes:
        served: the model.
        programs: by name, with their shapes.
        compiled: by name and number of rows.
        gallery: the enrolled.
    """

    served: Served
    programs: dict[str, tuple[Any, tuple[int, ...]]]
    compiled: dict[tuple[str, int], Callable[..., Any]]
    gallery: "Gallery | None" = None

    def run(self, name: str, rows: Sequence[Row]) -> list[tuple[np.ndarray, ...]]:
        """The answers of at most as many rows as the largest shape has."""
        size = next(size for size in self.programs[name][1] if size >= len(rows))
        batch = _stacked([*rows, *[rows[-1]] * (size - len(rows))])
        found = jax.device_get(self.compiled[name, size](jax.tree.leaves(self.served.outputs_fn), batch))
        return list(zip(*(array[: len(rows)] for array in found)))


class Gallery(NamedTuple):
    """The enrolled, for one product with all of their images.

    Attributes:
        names: of the people, in order. starts: where each one's images begin.
        units: float64 unit embeddings `[n, d]`.
    """

    names: tuple[str, ...]
    starts: np.ndarray
    units: np.ndarray

    def similarities(self, probe: np.ndarray) -> np.ndarray:
        """`[people]`: of each one's nearest image, the cosine to a unit embedding."""
        cosines = np.clip(self.units @ probe.astype(np.float64), -1, 1)
        return np.maximum.reduceat(cosines, self.starts)


def load(served: Served, settings: Settings, before: Loaded | None = None) -> Loaded:
    """Compiles every program in every shape, runs each once, and embeds the gallery.

    Args:
        served: the model.
        settings: with the shapes.
        before: a model whose programs are used again if its net is equal but for the weights.

    Raises:
        ValueError: where the model's answers are not those of its classes, or not finite.
    """
    # Weights that stayed on the host would be copied for every batch.
    served = dataclasses.replace(served, outputs_fn=jax.device_put(served.outputs_fn))
    loaded = Loaded(served, programs(served, settings), {})
    again = before is not None and _signature(before) == _signature(loaded)
    blank = row(np.full(served.image_shape, 128, np.uint8))
    for name, (program, sizes) in loaded.programs.items():
        for size in sizes:
            if before is not None and again:
                loaded.compiled[name, size] = before.compiled[name, size]
            else:
                loaded.compiled[name, size] = _compile(program, served.outputs_fn, _stacked([blank] * size))
            found = loaded.run(name, [blank] * size)
            if name == "forward" and found[0][0].shape != (len(served.class_names),):
                raise ValueError(
                    f"The model gives {found[0][0].shape[0]} classes and has {len(served.class_names)} names."
                )
            if not all(np.isfinite(array).all() for array in found[0]):
                raise ValueError(f"The model's answer to a grey image is not finite ({name}); repair it.")
    return loaded._replace(gallery=_enrolled(loaded)) if served.gallery else loaded


def _compile(program: Any, net: PyTree, batch: Row) -> Callable[..., Any]:
    """The program of the net's leaves and a batch.

    A function of its own, with which what JAX keeps of it goes; of the arguments' structure it keeps more, so
    the net's is none of it. An export is another net at each load.
    """
    leaves, tree = jax.tree.flatten(net)
    return compiler.jit(functools.partial(_run, program, tree)).lower(leaves, batch).compile()


def _run(program: Any, tree: Any, leaves: list[Array], rows: Row) -> tuple[Array, ...]:
    return program(jax.tree.unflatten(tree, leaves), rows)


def _signature(loaded: Loaded) -> tuple[Any, ...]:
    """Equal where the compiled programs are."""
    leaves, tree = jax.tree.flatten(loaded.served.outputs_fn)
    shapes = [(np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
    return tree, shapes, loaded.served.image_shape, loaded.programs


def _stacked(rows: Sequence[Row]) -> Row:
    return Row(*(np.stack(column) for column in zip(*rows)))


def _enrolled(loaded: Loaded) -> Gallery:
    people = loaded.served.gallery
    starts = np.cumsum([0, *(len(images) for images in people.values())])[:-1]
    units = np.concatenate([_embedded(loaded, images) for images in people.values()])
    return Gallery(tuple(people), starts, units.astype(np.float64))


def _embedded(loaded: Loaded, images: np.ndarray) -> np.ndarray:
    most = max(loaded.programs["forward"][1])
    found = []
    for start in range(0, len(images), most):
        answers = loaded.run("forward", [row(image) for image in images[start : start + most]])
        found += [unit(answer[1]) for answer in answers]
    return np.stack(found)


def unit(embedding: np.ndarray) -> np.ndarray:
    """float32, of length 1; one of length 0 stays 0, as `evaluation.verify` has it."""
    vector = np.asarray(embedding, np.float64)
    length = np.linalg.norm(vector)
    return (vector / length if length > 0 else vector).astype(np.float32)

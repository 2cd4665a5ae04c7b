"""The vocabulary of the library: what an example, a neighbourhood, an attack, a model and an objective are.

Every other module speaks in these terms; this one imports none of them.

Shapes in docstrings: ``b`` batch, ``h w c`` image, ``k`` classes. Images are float32 in [0, 1] wherever they
are not said to be uint8. Keys are typed (`jax.random.key`), one per row: ``keys`` has shape ``[b]``.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax

LATER: Mapping[str, bool] = MappingProxyType({"later": True})
"""Metadata of a configuration's field that was added after configurations had been written without it.

JSON leaves such a field out at its default, so that runs and rows from before are still recognised."""

RADIUS_TOLERANCE = 1e-4
"""How far beyond 1 a distance in radii may lie by rounding.

Float32 `x + eps` exceeds eps by up to 3e-8, which is 1e-5 radii at a radius of 1/255."""

PyTree: TypeAlias = Any
Array: TypeAlias = jax.Array
Theta: TypeAlias = PyTree
"""The parameters of a perturbation, e.g. an offset `[h, w, c]` or an (angle, shift) pair."""


class Example(NamedTuple):
    """Whatever must travel with its image through restarts, compaction and chunks: a row-wise pytree.

    Attributes:
        image: `[h, w, c]` (or `[b, h, w, c]` for a batch), float in [0, 1].
        target: an integer class `[]`, or a distribution `[k]`: what the model is to be led away from, or, for
            a targeted attack, the designated class.
        reference: a partner's embedding, for verification; None otherwise.
        mask: the region `[h, w, 1]`, 1 where a masked neighbourhood may change the image and 0 elsewhere;
            None otherwise.
    """

    image: Array
    target: Array
    reference: Array | None = None
    mask: Array | None = None


ScoreFn: TypeAlias = Callable[[Array, Example], Array]
"""`score_fn(images [b, h, w, c], example) -> logits [b, k]`; `example`: what rows need beside it."""

LossFn: TypeAlias = Callable[[Array, Array], Array]
"""`loss_fn(logits [b, k], target [b] or [b, k]) -> losses [b]`, unreduced, larger is worse for the model."""


@runtime_checkable
class Neighbourhood(Protocol):
    """The set N_{eps,T}(x) = {T(x; theta) : dist(T(x; theta), x) <= eps}, eq. (18) of CN111401445A.

    Frozen and hashable; works on ONE example (attacks vmap it). Its length unit is the *radius*: 1 is the
    border.
    """

    def init(self, ex: Example) -> Theta:
        """The identity: `apply(ex, init(ex))` is `ex.image`."""
        ...

    def sample(self, key: Array, ex: Example) -> Theta:
        """A random element of the neighbourhood."""
        ...

    def apply(self, ex: Example, theta: Theta) -> Array:
        """T(x; theta), `[h, w, c]` in [0, 1]; differentiable in theta and in the image."""
        ...

    def project(self, ex: Example, theta: Theta) -> Theta:
        """The nearest theta inside; idempotent."""
        ...

    def ascent(self, grad: Theta) -> Theta:
        """The steepest direction of length one radius in this geometry, e.g. `eps * sign(grad)` for l_inf.

        A zero gradient gives a zero step, never a NaN.
        """
        ...

    def distance(self, ex: Example, theta: Theta) -> Array:
        """dist(T(x; theta), x) in radii, a scalar measured after clipping: <= 1 is inside."""
        ...

    def scaled(self, factor: float | Array) -> "Neighbourhood":
        """This neighbourhood with every radius times `factor`, which may be traced (eps warm-up, curves)."""
        ...


@runtime_checkable
class Ball(Neighbourhood, Protocol):
    r"""The ball $\{x' \in [0, 1]^d : \|x' - x\|_p \le \epsilon\}$, whose theta is the offset `[h, w, c]`.

    What those attacks need that know their geometry (minimum norm, sparse, square-shaped).
    """

    @property
    def eps(self) -> float | Array:
        """The radius, in the norm's own units: pixels of [0, 1], or a count for p = 0."""
        ...

    @property
    def norm(self) -> float:
        """p: 0, 1, 2 or inf."""
        ...

    def length(self, delta: Array) -> Array:
        r"""$\|\delta\|_p$ of an offset `[h, w, c]`, a scalar."""
        ...

    def region(self, ex: Example) -> Array:
        """`[h, w, 1]`: 1 where the image may change, 0 elsewhere; all ones but for a masked ball."""
        ...

    def scaled(self, factor: float | Array) -> "Ball":
        """This ball with its radius times `factor`."""
        ...


class AttackResult(NamedTuple):
    """What an attack gives back, row by row.

    Attributes:
        image: `[b, h, w, c]` the worst image found (fixed radius), or the nearest adversarial (minimum norm;
            the clean image where none was found).
        theta: the perturbation's parameters, batched.
        found: bool `[b]`; whether `image` fools the model: argmax of its logits differs from the target's
            class (of a targeted attack: equals it).
        distance: `[b]` in radii of the attack's neighbourhood (for a sequence the largest over its stages). A
            minimum-norm attack looks beyond its radius, which is its unit of length and the budget at which
            an evaluation counts its successes: then a distance may exceed 1.
        nonfinite: bool `[b]`; whether the model answered NaN, or the loss was NaN, at some point that was
            tried. Such a point is never `image` where another is known, so evaluation reads this to count
            the row as wrong. None: the attack does not say.
    """

    image: Array
    theta: Theta
    found: Array
    distance: Array
    nonfinite: Array | None = None


@runtime_checkable
class Attack(Protocol):
    """A frozen, hashable dataclass. One key per row: a batch of 1 gives what that row gives among N.

    Optional: a class attribute `minimum_norm = True`, of attacks that look for the nearest adversarial image
    at any distance; a field `targeted`: lead the model to the target's class, not away from it.
    """

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch: every leaf of `example` has the leading axis `b`."""
        ...

    def scaled(self, factor: float | Array) -> "Attack":
        """This attack with its neighbourhood's radii multiplied by `factor`, which may be traced."""
        ...


class Outputs(NamedTuple):
    """What a model gives.

    Attributes:
        logits: float32 `[b, k]`.
        embedding: `[b, d]`, the features below the last layer.
        taps: named intermediate activations, empty unless the model offers them.
    """

    logits: Array
    embedding: Array | None = None
    taps: dict[str, Array] | None = None


class Model(NamedTuple):
    """A pure-functional image classifier; normalisation is inside, so it always takes pixels in [0, 1].

    Attributes:
        init: `init(key) -> (params, stats)`; `stats` are the BatchNorm statistics, `{}` without BatchNorm.
        apply: `apply(params, stats, x [b, h, w, c], *, train, keys=None, axis_name=None)` ->
            `(Outputs, stats)`. `keys` `[b]` feed dropout row by row (needed where `train` is true and the
            model has dropout); `axis_name` is the mapped axis over which BatchNorm averages, None for one
            device.
        image_shape: `(h, w, c)`.
        num_classes: k.
        random: whether eval mode draws from `keys` too, as a randomised defence does. Evaluation then attacks
            and judges the mean logits over draws.
    """

    init: Callable[[Array], tuple[PyTree, PyTree]]
    apply: Callable[..., tuple[Outputs, PyTree]]
    image_shape: tuple[int, int, int]
    num_classes: int
    random: bool = False


class Batch(NamedTuple):
    """One step's images: sizes are fixed for the whole run.

    Attributes:
        image: `[m_l, h, w, c]` labelled images, float32 in [0, 1], augmented.
        label: int32 `[m_l]`.
        unlabelled: `[m_u, h, w, c]`; m_u may be 0. There is no label of these images anywhere in the program.
        pseudo_label: int32 `[m_u]`, a teacher's label for each unlabelled image, or None.
    """

    image: Array
    label: Array
    unlabelled: Array
    pseudo_label: Array | None = None


class RowKeys(NamedTuple):
    """The random keys of one step, one per row and stream: `labelled` `[m_l]`, `unlabelled` `[m_u]`.

    A row's key depends on the seed, the step, the stream and the row's place in the *global* batch only, so
    that results do not depend on the number of devices.
    """

    labelled: Array
    unlabelled: Array


class Net(NamedTuple):
    """A model bound to its parameters inside a trace; what an objective sees of the training step.

    `progress` is the step number as float32 over the run's number of steps, in [0, 1): warm-ups read it.
    """

    model: Model
    params: PyTree
    stats: PyTree
    progress: Array
    axis_name: str | None = None

    def frozen(self, x: Array) -> Outputs:
        """Eval mode with gradients stopped on params and stats, never on x."""
        params, stats = jax.lax.stop_gradient((self.params, self.stats))
        return self.model.apply(params, stats, x, train=False)[0]

    def train(self, x: Array, keys: Array) -> tuple[Outputs, "Net"]:
        """Train mode; the second value is this net with its batch statistics advanced."""
        outputs, stats = self.model.apply(
            self.params, self.stats, x, train=True, keys=keys, axis_name=self.axis_name
        )
        return outputs, self._replace(stats=stats)

    def mean(self, values: Array) -> Array:
        """The mean over the whole global batch: local mean, then over devices; 0 for an empty local batch."""
        local = values.sum(dtype=values.dtype) / max(values.size, 1)
        return local if self.axis_name is None else jax.lax.pmean(local, self.axis_name)


class Aux(NamedTuple):
    """Beside the loss: the advanced batch statistics, the objective's state, scalar metrics by name."""

    stats: PyTree
    obj_state: PyTree
    metrics: dict[str, Array]


@runtime_checkable
class Objective(Protocol):
    """A defence as a value: a frozen dataclass that holds its attack and chooses the inner target.

    Optional: `on_validation(obj_state, metrics) -> obj_state`, called on the host after each validation;
    `needs_pseudo_labels`, a class attribute or property: it reads `Batch.pseudo_label`, so that an experiment
    with it must have a teacher.
    """

    def init(self, params: PyTree) -> PyTree:
        """The objective's own state, `()` mostly."""
        ...

    def __call__(self, keys: RowKeys, net: Net, batch: Batch, obj_state: PyTree) -> tuple[Array, Aux]:
        """The loss of this step (over the local rows, see `make_train_step`) and what goes with it."""
        ...

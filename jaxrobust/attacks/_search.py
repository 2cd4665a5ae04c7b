"""Search without gradients: score many candidates, a chunk at a time, and keep the worst or the first."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrobust.attacks._lanes import rows_of, until_found
from jaxrobust.attacks._worst import Worst, ascended, judge, nothing, worse_of
from jaxrobust.types import Array, Example, LossFn, Neighbourhood, ScoreFn, Theta


def search(
    propose_fn: Callable[[Array], Theta],
    score_fn: ScoreFn,
    example: Example,
    *,
    neighbourhood: Neighbourhood,
    loss_fn: LossFn,
    num: int,
    chunk: int,
    shared: bool,
    targeted: bool = False,
) -> Worst:
    """The worst of candidates 0 ... num - 1 for each row; the first of equals.

    `propose_fn(indices [chunk])` gives thetas `[b, chunk, ...]`, or `[chunk, ...]` if all images have them
    `shared`: then what a transformation computes from theta alone is computed once for the whole batch.
    """
    chunk = min(chunk, num)
    rows = example.image.shape[0]
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, chunk, axis=0), example)
    apply_fn = jax.vmap(jax.vmap(neighbourhood.apply, (None, 0)), (0, None if shared else 0))

    def body(i: int, worst: Worst) -> Worst:
        # The last chunk repeats the last candidate, which changes nothing: ties keep what is there.
        indices = jnp.minimum(i * chunk + jnp.arange(chunk), num - 1)
        thetas = propose_fn(indices)
        images = apply_fn(example, thetas)
        # Rows of one image stay together, so that a batch sharded over devices stays where it is.
        logits = score_fn(images.reshape(rows * chunk, *images.shape[2:]), repeated)
        losses = ascended(loss_fn, targeted)(logits, repeated.target)
        scored = judge((), logits, losses, repeated.target, targeted=targeted)
        level, loss = (a.reshape(rows, chunk) for a in (scored.level, scored.loss))
        broken = scored.broken.reshape(rows, chunk).any(axis=1)
        best = jnp.argmax(jnp.where(level == level.max(axis=1, keepdims=True), loss, -jnp.inf), axis=1)
        theta = jax.tree.map(lambda a: a[best] if shared else a[jnp.arange(rows), best], thetas)
        at_best = (jnp.arange(rows), best)
        return worse_of(worst, Worst(theta=theta, level=level[at_best], loss=loss[at_best], broken=broken))

    return jax.lax.fori_loop(0, -(-num // chunk), body, nothing(neighbourhood, example))


def search_first(
    propose_fn: Callable[[Array, Array], Theta],
    score_fn: ScoreFn,
    example: Example,
    *,
    neighbourhood: Neighbourhood,
    loss_fn: LossFn,
    num: int,
    chunk: int,
    targeted: bool = False,
) -> Worst:
    """Each row's first candidate of 0 ... num - 1 that fools the model, else the worst, as `search` has it.

    `propose_fn(rows [m], indices [m])` gives candidate `indices[j]` of row `rows[j]`. `chunk` candidates for
    every row are scored at once, all of them for the rows that are left.
    """

    def score(rows: Array, indices: Array) -> Worst:
        examples, thetas = rows_of(example, rows), propose_fn(rows, indices)
        logits = score_fn(jax.vmap(neighbourhood.apply)(examples, thetas), examples)
        losses = ascended(loss_fn, targeted)(logits, examples.target)
        return judge(thetas, logits, losses, examples.target, targeted=targeted)

    lanes = example.image.shape[0] * min(chunk, num)
    return until_found(score, nothing(neighbourhood, example), example, num=num, lanes=lanes)

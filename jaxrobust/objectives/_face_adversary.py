"""The adversaries of faces: whom an image is to become, or that it is no longer who it is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.numerics.similarity import pair_logits, unit
from jaxrobust.objectives import _rows
from jaxrobust.types import Array, Attack, Batch, Example, Net, Outputs

# After the purposes of `_rows`.
COIN, PARTNER, CLASS, BUILD, TARGET_PASS = range(3, 8)


class Targets(NamedTuple):
    """x_t, row by row; one of `rows` and `images` is None.

    Attributes:
        reference: `[b, d]` unit embeddings by the frozen net, with gradients stopped.
        found: bool `[b]`; rows without a target dodge and have no regulariser.
        rows: int32 `[b]`, places in the global batch.
        images: `[b, h, w, c]`.
    """

    reference: Array
    found: Array
    rows: Array | None = None
    images: Array | None = None


def embedding_of(outputs: Outputs) -> Array:
    """Unit embeddings `[b, d]`; ValueError for a model that gives none."""
    if outputs.embedding is None:
        raise ValueError(
            "Expected a model that gives an embedding, got Outputs(embedding=None). Use a face model such as "
            "FaceCNN, or return the features below the last layer as Outputs.embedding."
        )
    return unit(outputs.embedding)


def gathered(values: Array, axis_name: str | None) -> Array:
    """The rows of all devices, in the order of the global batch."""
    return values if axis_name is None else jax.lax.all_gather(values, axis_name, tiled=True)


def others(labels: Array, everyone: Array) -> Array:
    """bool `[b, B]`: whether row j of the global batch shows another person than row i."""
    return labels[:, None] != everyone[None, :]


def impostor_cosine(net: Net, source: Array, labels: Array) -> Array:
    """The mean cosine over the pairs of different labels in the global batch; 0 where there are none."""
    source = jax.lax.stop_gradient(source)
    pairs = others(labels, gathered(labels, net.axis_name)).astype(source.dtype)
    cosines = source @ gathered(source, net.axis_name).T
    count = net.mean(pairs)
    return net.mean(cosines * pairs) / jnp.where(count > 0, count, 1)


def real_targets(keys: Array, net: Net, labels: Array, clean: Array) -> Targets:
    """For each row an image of another class, drawn uniformly from the global batch by the row's key.

    `clean`: the frozen net's unit embeddings of the local rows.
    """
    everyone = gathered(labels, net.axis_name)
    allowed = others(labels, everyone)
    draw_keys = _rows.keys_for(keys, PARTNER)
    draws = jax.vmap(lambda key: jax.random.uniform(key, everyone.shape))(draw_keys)
    rows = jnp.argmax(jnp.where(allowed, draws, -1.0), axis=-1)
    return Targets(gathered(clean, net.axis_name)[rows], jnp.any(allowed, axis=-1), rows=rows)


def built_targets(attack: Attack, keys: Array, net: Net, batch: Batch) -> Targets:
    """The patent's target sample: the source, led by `attack` to a class drawn among the others.

    Rows that the attack does not bring there have no target.
    """
    num_classes = net.model.num_classes
    class_keys = _rows.keys_for(keys, CLASS)
    shift = jax.vmap(lambda key: jax.random.randint(key, (), 1, num_classes))(class_keys)
    designated = (batch.label + shift.astype(batch.label.dtype)) % num_classes
    example = Example(image=batch.image, target=designated)
    result = attack(_rows.keys_for(keys, BUILD), lambda x, _: net.frozen(x).logits, example)
    images = jax.lax.stop_gradient(result.image)
    reference = jax.lax.stop_gradient(embedding_of(net.frozen(images)))
    return Targets(reference, result.found, images=images)


def perturbed(attack: Attack, keys: Array, net: Net, images: Array, reference: Array, target: Array) -> Array:
    """The attack's worst images, held fixed; away from class 0 of the pair dodges, away from 1 impersonates.

    The verification threshold is 0 and the scale 1: both move no image, as the loss rises with the cosine.
    """

    def score(x: Array, ex: Example) -> Array:
        assert ex.reference is not None
        return pair_logits(embedding_of(net.frozen(x)), ex.reference, 0.0, 1.0)

    example = Example(image=images, target=target, reference=reference)
    result = attack(_rows.keys_for(keys, _rows.ATTACK), score, example)
    return jax.lax.stop_gradient(result.image)


def adversaries(
    attack: Attack, keys: Array, net: Net, images: Array, clean: Array, targets: Targets
) -> Array:
    """Images `[b, h, w, c]`: by a coin of the row's key, impersonation of its target or dodging of itself."""
    coin = jax.vmap(jax.random.bernoulli)(_rows.keys_for(keys, COIN))
    impersonates = coin & targets.found
    reference = jnp.where(impersonates[:, None], targets.reference, clean)
    return perturbed(attack, keys, net, images, reference, impersonates.astype(jnp.int32))


def check_pair_attack(attack: Any) -> None:
    """Raises ValueError for an attack that pairs cannot take."""
    _rows.check(attack, 0.0)
    if True in _goals(attack):
        raise ValueError(
            "Expected an untargeted attack on pairs, got targeted=True. Away from 'the same person' is "
            "dodging, away from 'another person' impersonation."
        )
    if getattr(getattr(attack, "start_fn", None), "__name__", "") == "identity_start":
        raise ValueError(
            "Expected an attack that starts beside the clean image, got start_fn=identity_start: the "
            "gradient of cos(f(x'), f(x)) is 0 at x' = x, so it would never move. Use start_fn=uniform_start."
        )


def check_built_attack(attack: Any) -> None:
    """Raises ValueError for an attack that leads to no designated class."""
    if not isinstance(attack, Attack) or _goals(attack) != {True}:
        raise ValueError(
            "Expected built_attack to be targeted, e.g. PGD(neighbourhood=LInf(eps=16/255), targeted=True), "
            f"got {attack!r}."
        )


def stands_still(attack: Any) -> bool:
    """Whether every ball that the attack moves in has eps = 0."""
    parts = getattr(attack, "stages", ()) or getattr(attack, "attacks", ()) or getattr(attack, "parts", ())
    if parts:
        return all(stands_still(part) for part in parts)
    eps = getattr(attack, "eps", None)
    if eps is None and hasattr(attack, "neighbourhood"):
        return stands_still(attack.neighbourhood)
    return isinstance(eps, int | float) and eps == 0


def _goals(attack: Any) -> set[bool]:
    """The values of `targeted` in an attack, or in the stages or members that it is made of."""
    parts = getattr(attack, "stages", ()) or getattr(attack, "attacks", ())
    if parts:
        return set().union(*(_goals(part) for part in parts))
    return {bool(attack.targeted)} if hasattr(attack, "targeted") else set()

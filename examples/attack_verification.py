"""Attacking face verification: dodging and impersonation against an embedding model.

python examples/attack_verification.py    (needs the faces: pip install 'jaxrobust[faces]')
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxrobust
from jaxrobust import data
from jaxrobust.attacks import DDN, PGD, GridSearch
from jaxrobust.neighbourhoods import L2, LInf, RotationTranslation
from jaxrobust.numerics.losses import margin
from jaxrobust.numerics.similarity import cosine

TRAINED = 20  # people whose images make the model; the pairs are of the others


def eigenfaces(images: np.ndarray, num: int = 30) -> dict[str, jax.Array]:
    """The mean and the first principal directions: the oldest of face embeddings."""
    flat = images.reshape(len(images), -1)
    mean = flat.mean(axis=0)
    directions = np.linalg.svd(flat - mean, full_matrices=False)[2][:num]
    return {"mean": jnp.asarray(mean), "directions": jnp.asarray(directions)}


def embed(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Images `[b, h, w, 1]` to embeddings `[b, 30]`; any function of JAX would do."""
    return (x.reshape(len(x), -1) - params["mean"]) @ params["directions"].T


def main(num: int = 40) -> dict[str, float]:
    """How often a genuine pair is dodged and an impostor accepted, by attack."""
    faces = data.load("orl", size=(28, 23))
    images, people = data.to_float(faces.train.images), faces.train.labels
    model = functools.partial(embed, eigenfaces(images[people < TRAINED]))

    # Pairs of strangers to the model: half genuine, half impostors. (The embedding is no good one.)
    rng = np.random.default_rng(0)
    pool = np.flatnonzero(people >= TRAINED)
    first = rng.choice(pool, num)
    same = np.arange(num) < num // 2
    second = [rng.choice(pool[(people[pool] == people[i]) == s]) for i, s in zip(first, same)]
    x, partners = jnp.asarray(images[first]), jnp.asarray(images[np.array(second)])

    scores = cosine(model(x), model(partners))
    threshold = float((scores[same].mean() + scores[~same].mean()) / 2)
    attacks = {
        "PGD": PGD(neighbourhood=LInf(eps=8 / 255), steps=20, step_size=0.2, loss_fn=margin),
        "DDN": DDN(neighbourhood=L2(eps=1.0)),
        "grid": GridSearch(
            neighbourhood=RotationTranslation(max_angle=10.0, max_shift=1.0), granularity=(3, 3, 5)
        ),
    }
    found = {"clean": float(np.mean((scores > threshold) != same))}
    for name, attack in attacks.items():
        result = jaxrobust.attack_pairs(
            attack, model, x, partners, same, threshold=threshold, key=jax.random.key(0)
        )
        found[f"{name}, dodging"] = float(result.found[same].mean())
        found[f"{name}, impersonation"] = float(result.found[~same].mean())
        if name == "DDN":
            found["DDN, median length"] = float(jnp.median(result.distance[result.found]))
    return found


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.3g}")

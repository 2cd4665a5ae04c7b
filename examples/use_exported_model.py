"""Using a model that `jaxrobust export` wrote, in plain JAX: classes, an attack by its gradient, its weights.

python examples/use_exported_model.py FOLDER [IMAGES.npy]

Needs `pip install jax flatbuffers`, and orbax-checkpoint for the weights; jaxrobust is not imported.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export


def fgsm(logits_fn: Any, images: jax.Array, labels: jax.Array, eps: float) -> jax.Array:
    """The fast gradient sign method: one step of eps against the cross-entropy."""

    def loss(x: jax.Array) -> jax.Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits_fn(x)), labels[:, None], axis=1).sum()

    return jnp.clip(images + eps * jnp.sign(jax.grad(loss)(images)), 0, 1)


def main(folder: Path, images_file: Path | None = None) -> dict[str, Any]:
    """Classes of the images `[b, h, w, c]` in [0, 1] (else of random ones) before and after an attack."""
    card = json.loads((folder / "model_card.json").read_text(encoding="utf-8"))
    logits_fn = jax.jit(export.deserialize(bytearray((folder / "model.stablehlo").read_bytes())).call)

    shape = card["data"]["image_shape"]
    noise = np.random.default_rng(0).uniform(size=(5, *shape))
    images = jnp.asarray(noise if images_file is None else np.load(images_file), jnp.float32)
    logits = logits_fn(images)
    classes = logits.argmax(axis=-1)
    attacked = logits_fn(fgsm(logits_fn, images, classes, eps=0.1)).argmax(axis=-1)
    return {
        "classes": [card["data"]["class_names"][int(i)] for i in classes],
        "changed by FGSM": int((attacked != classes).sum()),
        "logits": np.asarray(logits),
    }


def weights(folder: Path) -> dict[str, Any]:
    """The weights as flax variables: `params`, and `batch_stats` where the net has any."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as reader:
        return reader.restore((folder / "checkpoint").absolute())


if __name__ == "__main__":
    arguments = [Path(argument) for argument in sys.argv[1:]]
    found = main(*arguments)
    print(f"classes: {', '.join(found['classes'][:10])}")
    print(f"FGSM with eps 0.1 changes {found['changed by FGSM']} of {len(found['classes'])}")
    count = sum(leaf.size for leaf in jax.tree.leaves(weights(arguments[0])["params"]))
    print(f"{count:,} parameters")

"""Evaluating someone else's face model: any function from images to embeddings, on people it has not seen.

python examples/verify_foreign_face_model.py    (needs the faces: pip install 'jaxrobust[faces]')
"""

import jax
import jax.numpy as jnp

from jaxrobust import data, evaluation


@jax.jit
def foreign_model(images: jax.Array) -> jax.Array:
    """Float32 `[b, h, w, 1]` in [0, 1] to embeddings `[b, d]`: here the pixels; yours goes here."""
    smaller = jax.image.resize(images, (len(images), 28, 23, 1), "linear").reshape(len(images), -1)
    return smaller - jnp.mean(smaller, axis=1, keepdims=True)


def main(num_draws: int = 1000) -> evaluation.VerificationReport:
    """Four folds of ORL; `folder:PATH` of people, or LFW's folder with `read_lfw_pairs`, is the same."""
    faces = data.load_identities("orl")
    folds = data.identity_folds(faces, num_folds=4, num_validation=6, seed=0)
    return evaluation.verify(
        foreign_model,
        faces,
        data.fold_pairs(faces, folds, "test", seed=0),
        validation=data.fold_pairs(faces, folds, "validation", seed=0),
        num_draws=num_draws,
        name="resized pixels",
    )


if __name__ == "__main__":
    print(main().summary())

"""Grad-CAM: which places of a layer's activation support the target."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxrobust.saliency import _passes
from jaxrobust.saliency._types import Stages, TargetFn
from jaxrobust.types import Array, Example


@dataclass(frozen=True, kw_only=True)
class GradCAM:
    r"""The activation's channels, weighed by their mean gradient (Selvaraju et al., arXiv 1610.02391).

    $\alpha_k = \frac{1}{Z} \sum_{ij} \partial f / \partial A^k_{ij}$ (eq. (1)) and
    $S = \sum_k \alpha_k A^k$ (eq. (2) without its ReLU), enlarged bilinearly to the image.

    The layer is the target's affair: `target_fn` must be `Stages`, cut at a layer, as
    `model_logits(..., at="conv4")` and `model_embeddings(..., at=...)` give them for the library's models.

    Deviation: eq. (2) drops negative values by a ReLU, which leaves nothing to rank in most of an image; it
    is off unless asked for.

    Args:
        rectify: whether the ReLU of eq. (2) is applied, before the enlargement.

    Raises:
        ValueError: when used, for a target that is not cut in two, or activations without places.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> target_fn = Stages(lambda images, ex: 2 * images, lambda values, ex: values.sum((1, 2, 3)))
        >>> ex = Example(jnp.array([0.5, 1.0]).reshape(1, 1, 2, 1), jnp.zeros(1, int))
        >>> GradCAM()(jax.random.split(jax.random.key(0), 1), target_fn, ex).tolist()
        [[[1.0, 2.0]]]
    """

    rectify: bool = False

    def __call__(
        self,
        keys: Array,
        target_fn: TargetFn,
        example: Example,
        *,
        baseline: float | Array = 0.0,
        chunk: int | None = None,
    ) -> Array:
        """Maps `[b, h, w]`; see `SaliencyMap`. Reads neither keys nor baseline."""
        if not isinstance(target_fn, Stages):
            raise ValueError(
                f"GradCAM needs a target that is cut at a layer, got a {type(target_fn).__name__}. Make it "
                'of Stages: class_logit(model_logits(model, params, stats, at="conv4")), or, for a model of '
                "your own, class_logit(Stages(features_fn, head_fn))."
            )
        stages = target_fn
        b, h, w, _ = example.image.shape

        def of(rows: Example) -> Array:
            activations = stages.features_fn(rows.image, rows)
            if activations.ndim != 4:
                raise ValueError(
                    f"Expected activations [b, i, j, k], got shape {list(activations.shape)}. Cut the target "
                    "at a layer that has places: a convolution."
                )
            slopes = jax.grad(lambda values: _head(stages, values, rows).sum())(activations)
            weights = slopes.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
            found = (weights * activations.astype(jnp.float32)).sum(axis=-1)
            return jax.nn.relu(found) if self.rectify else found

        found = _passes.by_groups(of, example, _passes.sizes(b, 1, chunk).rows)
        return jax.image.resize(found, (b, h, w), "linear", precision=jax.lax.Precision.HIGHEST)


def _head(stages: Stages, activations: Array, rows: Example) -> Array:
    return _passes.checked(stages.head_fn(activations, rows), rows.image.shape[0])

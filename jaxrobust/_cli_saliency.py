"""`jaxrobust audit saliency RUN`: from runs to what the audit takes."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def audit_runs(
    runs: Sequence[Any],
    audit: Any,
    layers: Mapping[str, str | None],
    *,
    dataset: str | None = None,
    pairs: Path | None = None,
    data_dir: Path | None = None,
    num: int = 100,
    target: str | None = None,
    randomise: bool = True,
    explained: Sequence[Any] = (),
    far: float | None = None,
    name: str | None = None,
    progress_fn: Callable[[str, int, int], None] | None = None,
    log_fn: Callable[[str], None] = lambda text: None,
) -> Any:
    """Audits a run, or the runs of several folds of people.

    Args:
        runs: from `load_run`.
        audit: the `SaliencyAudit`.
        layers: by name of each map of Grad-CAM, where the net is cut; None for its last tap.
        dataset, pairs, data_dir: as in `evaluate_run` and `evaluate_faces`.
        num: images, the first ones; of faces so many genuine and as many impostor pairs.
        target: of classes, `label` (None) or `predicted`.
        randomise: whether maps are compared with those of randomised layers.
        explained: other runs, one each, whose maps give the regions.
        far: of faces, that thresholds are to have; None for 0.01.
        name: for the report; None for the folders'.
        progress_fn, log_fn: receive where it stands, and warnings.

    Returns:
        The `SaliencyReport`.

    Raises:
        ValueError: as in these and in the audit.
    """
    from jaxrobust import experiments

    if explained and len(explained) != len(runs):
        raise ValueError(
            f"Regions are those of another run for each: expected {len(runs)} with --explained, got "
            f"{len(explained)}."
        )
    for run, other in zip(runs, explained):
        if other.model.image_shape != run.model.image_shape:
            raise ValueError(
                f"{other.folder} takes images {list(other.model.image_shape)}, {run.folder} "
                f"{list(run.model.image_shape)}: its maps have no place there. Take a run of the same shape."
            )
    shared: dict[str, Any] = {
        "name": name or ", ".join(run.folder.name for run in runs),
        "progress_fn": progress_fn,
    }
    if isinstance(runs[0].experiment.data, experiments.FaceData):
        if target is not None:
            raise ValueError(f"--target {target} is for classes, and pairs have none. Leave it out.")
        asked_far = 0.01 if far is None else far
        return _pairs(
            runs,
            audit,
            layers,
            dataset,
            pairs,
            data_dir,
            num,
            randomise,
            explained,
            asked_far,
            shared,
            log_fn,
        )
    if len(runs) > 1 or pairs is not None:
        raise ValueError("Several runs and --pairs are for faces. Audit one classifier at a time.")
    if far is not None:
        raise ValueError(
            f"--far {far:g} is of a threshold of faces, and a classifier has none. Leave it out."
        )
    return _classes(
        runs[0], audit, layers, dataset, data_dir, num, target, randomise, explained, shared, log_fn
    )


def _pairs(
    runs: Sequence[Any],
    audit: Any,
    layers: Mapping[str, str | None],
    dataset: str | None,
    pairs: Path | None,
    data_dir: Path | None,
    num: int,
    randomise: bool,
    explained: Sequence[Any],
    far: float,
    shared: Mapping[str, Any],
    log_fn: Callable[[str], None],
) -> Any:
    from jaxrobust import audits, experiments, saliency

    people = experiments.asked(runs, dataset, pairs, data_dir, log_fn)
    single = len(runs) == 1

    def models(values: Sequence[Any]) -> Any:
        return values[0] if single else list(values)

    shown = list(explained) or list(runs)
    cuts = [_cuts(run, layers, saliency.model_embeddings) for run in shown]
    randomised: dict[str, list[Any]] = {}
    for run, own in zip(shown, cuts) if randomise else ():
        drawn = _randomised(run, own, experiments.embedding_fn, lambda outputs: outputs.embedding, audit.seed)
        for layer, one in drawn.items():
            randomised.setdefault(layer, []).append(one)
    means = [experiments.training_mean(run, data_dir) for run in runs]
    return audits.audit_pairs(
        audit,
        models([experiments.embed_fn(run) for run in runs]),
        people.identities,
        people.pairs,
        validation=people.validation,
        trained_on=people.trained_on,
        fill=None if any(mean is None for mean in means) else models(means),
        stages={key: models([one[key] for one in cuts]) for key in layers},
        explained=models([experiments.embed_fn(run) for run in explained]) if explained else None,
        randomised={layer: models(values) for layer, values in randomised.items()},
        far=far,
        num_genuine=_at_most(num, int(people.pairs.genuine.sum())),
        num_impostor=_at_most(num, int((~people.pairs.genuine).sum())),
        **shared,
    )


def _classes(
    run: Any,
    audit: Any,
    layers: Mapping[str, str | None],
    dataset: str | None,
    data_dir: Path | None,
    num: int,
    target: str | None,
    randomise: bool,
    explained: Sequence[Any],
    shared: Mapping[str, Any],
    log_fn: Callable[[str], None],
) -> Any:
    from jaxrobust import audits, experiments, saliency

    found = experiments.test_set(run, dataset, data_dir, {}, log_fn)
    images, labels = np.asarray(found.test.images[:num]), np.asarray(found.test.labels[:num])
    shown = explained[0] if explained else run
    cuts = _cuts(shown, layers, saliency.model_logits)
    drawn = None
    if randomise:
        drawn = _randomised(shown, cuts, experiments.logits_fn, lambda outputs: outputs.logits, audit.seed)
    return audits.audit_classifier(
        audit,
        run.logits_fn,
        images,
        None if target == "predicted" else labels,
        fill=experiments.mean_image(found.train.images),
        stages=cuts,
        explained=shown.logits_fn if explained else None,
        randomised=drawn,
        class_names=run.class_names,
        dataset=found.name,
        fingerprint=found.fingerprint,
        **shared,
    )


def _cuts(run: Any, layers: Mapping[str, str | None], cut_fn: Any) -> dict[str, Any]:
    """The run cut at each map's layer."""
    return {
        name: cut_fn(run.model, run.params, run.stats, at=layer or _last_tap(run))
        for name, layer in layers.items()
    }


def _randomised(run: Any, cuts: Mapping[str, Any], whole_fn: Any, read: Any, seed: int) -> dict[str, Any]:
    """The run with more and more of its layers drawn anew, whole and cut as the maps need it."""
    from jaxrobust import audits, saliency

    return {
        layer: audits.Randomised(
            whole_fn(run.model, params, stats),
            {name: saliency.with_weights(cut, params, stats) for name, cut in cuts.items()},
        )
        for layer, (params, stats) in audits.cascade(
            run.model, run.params, run.stats, seed=seed, read=read
        ).items()
    }


def _last_tap(run: Any) -> str:
    """The last activation that the net names."""
    import jax
    import jax.numpy as jnp

    images = jax.ShapeDtypeStruct((1, *run.model.image_shape), jnp.float32)
    taps = jax.eval_shape(lambda x: run.model.apply(run.params, run.stats, x, train=False)[0].taps, images)
    if not taps:
        raise ValueError(f"The net of {run.folder} names no activation; give grad_cam@MODULE.")
    return list(taps)[-1]


def _at_most(num: int, there: int) -> int:
    return min(num, there)


def default_maps(side: int) -> str:
    """The names of the default maps; a window as large as the image would explain nothing."""
    window = "" if side >= 16 else f":window={max(side // 4, 1)},stride={max(side // 8, 1)}"
    return f"occlusion{window},integrated_gradients,grad_cam"


def folder_name(dataset: str | None, explained: Sequence[Any]) -> str:
    """Another set's audit, or one of another model's regions, does not take the place of the run's own."""
    said = [] if dataset is None else [dataset]
    said += [run.folder.name for run in explained[:1]]
    return "-".join(["saliency", *(re.sub(r"[^a-z0-9]+", "-", one.lower()).strip("-") for one in said)])

"""`jaxrobust evaluate RUN --task verification`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrobust import _cli_common as common


def verification(
    runs: Sequence[Any],
    *,
    attacks: str | None,
    dataset: str | None,
    pairs: Path | None,
    num: int | None,
    data_dir: Path | None,
    changes: Mapping[str, Any],
    minimum_eps: bool,
    transfer_from: Sequence[Any],
    batch_size: int,
    seed: int,
    report: Path | None,
) -> None:
    """Measures runs on faces, prints what was found and writes it into the report's folder."""
    from jaxrobust import experiments

    first = runs[0]
    if transfer_from and len(runs) > 1:
        raise ValueError("--transfer-from makes images on another run: evaluate one run, not several.")
    others = {str(other.folder): [other] for other in transfer_from}
    # Another set's numbers do not take the place of the run's own.
    folder = "verification"
    if dataset is not None:
        folder += "-" + re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-")
    found = experiments.evaluate_faces(
        runs,
        attacks=common.names(attacks),
        dataset=dataset,
        pairs=pairs,
        data_dir=data_dir,
        changes=dict(changes),
        num_genuine=num,
        minimum_eps=minimum_eps,
        transfer_from=others or None,
        batch_size=batch_size,
        seed=seed,
        log_fn=common.say,
    )
    common.say(found.clean.summary())
    if found.attacked is not None:
        common.say(found.attacked.summary())
    page = experiments.write_face_report(
        found,
        report or first.folder / folder,
        title=f"{found.clean.model}: verification",
        command=common.command_line(),
        facts={
            "checkpoint": ", ".join(f"step {run.step}" for run in runs),
            "training": experiments.summary(first.experiment),
        },
    )
    common.say(f"Report: {page}")

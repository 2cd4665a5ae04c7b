"""An evaluation whose every number is kept, for tests that divide it over devices and over two 'hosts'.

`python -m tests.evaluation.sharded_program OUT` writes OUT/PROCESS.npz.
"""

import os
import sys
import tempfile
from pathlib import Path


def measure(num_devices: int | None = None) -> dict:
    """Rows, flags, images, a curve, a certificate and what the trust checks say of the linear model.

    Seven rows lie on each device whatever their number: equal programs run, and no rounding differs.
    """
    import jax
    import numpy as np

    from jaxrobust import evaluation
    from jaxrobust.attacks import PGD, Ensemble, RandomSearch
    from jaxrobust.evaluation import EvalAttack, Surrogate, _engine, accuracy_curve, certify, evaluate, trust
    from jaxrobust.evaluation._view import look
    from jaxrobust.neighbourhoods import L2, LInf
    from tests.evaluation.conftest import make_linear
    from tests.evaluation.stand_ins import Boundary

    linear = make_linear()
    weak = RandomSearch(neighbourhood=LInf(eps=0.05), num=2)
    pgd = PGD(neighbourhood=LInf(eps=0.05), steps=5, step_size=0.5)
    near = Boundary(neighbourhood=L2(eps=0.08))
    attacks = {"ensemble": EvalAttack(Ensemble(attacks=(weak, near))), "near": EvalAttack(near)}
    attacks |= {"pgd": EvalAttack(pgd, every_image=True)}
    devices = jax.local_device_count() if num_devices is None else num_devices
    options = {"batch_size": 7 * devices, "seed": 1, "num_devices": num_devices}
    task = (linear.model, linear.params, {}, linear.images, linear.labels)
    other = {"other": Surrogate(linear.model, linear.params, {})}
    report = evaluate(*task, attacks, keep_images=True, robust_risk=True, trust_checks=False, **options)
    # The checks look at as many images as were asked for.
    subject = _engine.subject(*task, **options)._replace(asked=28)
    verdicts = trust.check(look(subject, attacks, report, other))
    curve = accuracy_curve(*task, EvalAttack(pgd), name="pgd", factors=(0.5, 1.0), **options)
    certificate = certify(*task, sigma=0.1, num_select=8, num_certify=40, **options)
    with tempfile.TemporaryDirectory() as folder:
        stored = evaluation.load_adversarial(evaluation.save_adversarial(report, folder, linear.images))
    options.pop("seed")
    again = evaluation.evaluate_adversarial(*task[:3], stored, **options)
    counts = ("correct", "attacked", "outside", "nonfinite", "accuracy_8bit", "pixel_low", "pixel_high")
    found = {f"flag {name}": value for name, value in report.flags.items()}
    found |= {f"image {name}": value for name, value in report.images.items()}
    found |= {
        f"row {row['attack']} {name}": np.float64(row[name])
        for row in report.rows
        for name in counts
        if row[name] is not None
    }
    found |= {f"stored {name}": value for name, value in again.flags.items()}
    found |= {"curve": np.array(curve.accuracy), "certified": certificate.prediction}
    found |= {"radius": certificate.radius, "samples": np.array([s.index for s in report.samples])}
    found |= {f"evidence {v.check}": np.float64(v.evidence) for v in verdicts}
    return found | {"verdicts": np.array([f"{v.check} {v.level.value}" for v in verdicts])}


def main() -> int:
    """Joins the other process, measures, writes."""
    from jaxrobust.training import initialise_distributed

    initialise_distributed()
    import jax
    import numpy as np

    np.savez(Path(sys.argv[1]) / f"{jax.process_index()}.npz", **measure())
    return 0


if __name__ == "__main__":
    # Set here as well, since the program runs without pytest's conftest.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())

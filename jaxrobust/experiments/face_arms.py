"""The arms of face training: the same people, net and steps, with another objective."""

import dataclasses

from jaxrobust.attacks import PGD
from jaxrobust.data import Augment
from jaxrobust.evaluation import ThreatModel
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.experiments.face_data import FaceData
from jaxrobust.models import FaceCNN
from jaxrobust.neighbourhoods import LInf
from jaxrobust.objectives import FaceGated, FaceSRT, Gate, Standard
from jaxrobust.training import OneCycle, OptimizerConfig
from jaxrobust.types import Objective

ARMS = {
    "clean": "clean",
    "at": "adversarial training only",
    "ungated": "regulariser, no gate",
    "gated": "regulariser behind the gate",
}
"""The four that are always shown side by side, with their titles."""

ATTACKS = ("none", "pgd:steps=40", "mi_fgsm", "apgd_ce")


def face_orl() -> dict[str, Experiment]:
    """ORL on two cores: 24 people train, 6 choose, 10 are tested in each of four folds."""
    base = Experiment(
        data=FaceData(dataset="orl", size=(56, 46)),
        model=FaceCNN(num_classes=24),
        objective=Standard(),
        optimizer=OptimizerConfig(name="adam", learning_rate=2e-3, schedule=OneCycle()),
        num_steps=400,
        batch_size=32,
        augment=Augment(pad=4, flip=True),
        threat=ThreatModel(eps=8 / 255),
        attacks=ATTACKS,
        note="CN116665282A with settings of this library's own: ORL at 56x46, four folds of people, eps "
        "8/255, 5 steps of a third of eps. Shifts and mirror images were chosen on folds 0 and 1 by "
        "their validation people, who are tested in other folds; fold 2's would have chosen none. "
        "`srt` sees the same people, all with labels: "
        "data.num_unlabelled=8 takes those of eight away.",
    )
    return arms(base, PGD(neighbourhood=LInf(eps=8 / 255), steps=5, step_size=1 / 3, keep_worst=False))


def arms(base: Experiment, attack: PGD, gate: Gate | None = None) -> dict[str, Experiment]:
    """The four arms, and `srt`, which holds the embeddings of all images still and knows no gate.

    Args:
        base: the clean arm; its objective is replaced.
        attack: finds the adversarial faces.
        gate: of the gated arm; None for the default one.
    """
    objectives: dict[str, Objective] = {
        "clean": Standard(),
        "at": FaceGated(attack=attack, lam=0.0, gate=None),
        "ungated": FaceGated(attack=attack, gate=None),
        "gated": FaceGated(attack=attack, gate=gate or Gate()),
    }
    rows = {name: dataclasses.replace(base, objective=one) for name, one in objectives.items()}
    return {**rows, "srt": dataclasses.replace(base, objective=FaceSRT(attack=attack))}

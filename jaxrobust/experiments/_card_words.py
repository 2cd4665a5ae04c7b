"""What a model card says in sentences: neighbourhoods with their units, what the model is for, its limits.

Every sentence is made from facts of the card; none is the same for all models but for what holds of all.
"""

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxrobust import neighbourhoods
from jaxrobust.evaluation import CLEAN, SUITE, WORST, ThreatModel
from jaxrobust.types import Neighbourhood

_COLOURS = {
    "hue": "hue by at most {:g} degrees",
    "saturation": "saturation by at most {:g} of itself",
    "brightness": "brightness by at most {:g} in pixels of [0, 1]",
    "contrast": "contrast by at most {:g} of itself",
    "grey": "at most {:g} of the way to black-and-white",
}
_LEVELS = "or {levels:.4g} of 255 grey levels"


def radii(threat: ThreatModel) -> dict[str, dict[str, Any]]:
    """The radii of a threat model with their units, those that it has.

    >>> radii(ThreatModel(eps=0.3))["eps"]
    {'value': 0.3, 'unit': 'linf radius, in pixels of [0, 1]'}
    """
    units = {
        "eps": f"{threat.ball} radius, in pixels of [0, 1]",
        "eps_linf": "linf radius, in pixels of [0, 1]",
        "eps_l2": "l2 radius, in pixels of [0, 1]",
        "eps_l0": "pixels that may change",
        "max_angle": "degrees, either way",
        "max_shift": "pixels, down and right each, either way",
    }
    found = {name: {"value": getattr(threat, name), "unit": unit} for name, unit in units.items()}
    return {name: one for name, one in found.items() if one["value"] is not None}


def neighbourhoods_in(value: Any) -> list[Any]:
    """The neighbourhoods inside an objective, each once, in the order of its fields."""
    if isinstance(value, Neighbourhood) and not isinstance(value, type):
        return [value]
    if isinstance(value, tuple):
        items = list(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [getattr(value, field.name) for field in dataclasses.fields(value)]
    else:
        items = []
    found = [inner for item in items for inner in neighbourhoods_in(item)]
    return [one for at, one in enumerate(found) if one not in found[:at]]


def in_words(value: Any) -> str:
    """A neighbourhood with its units.

    >>> in_words(neighbourhoods.LInf(eps=0.2))
    'every pixel value changes by at most 0.2 of the range [0, 1], or 51 of 255 grey levels (l_inf)'
    >>> in_words(neighbourhoods.RotationTranslation(max_angle=10.0, max_shift=0.0))
    'turned by at most 10 degrees'
    """
    room = neighbourhoods
    if isinstance(value, room.LInf | room.UniformNoise):
        levels = _LEVELS.format(levels=255 * value.eps)
        what = "l_inf" if isinstance(value, room.LInf) else "uniform noise"
        return f"every pixel value changes by at most {value.eps:g} of the range [0, 1], {levels} ({what})"
    if isinstance(value, room.L2):
        return f"the change has a Euclidean length of at most {value.eps:g}, in pixels of [0, 1] (l_2)"
    if isinstance(value, room.L1):
        return f"the changes of all values sum to at most {value.eps:g}, in pixels of [0, 1] (l_1)"
    if isinstance(value, room.L0):
        return f"at most {value.eps:g} {'values' if value.features else 'pixels'} change, by any amount (l_0)"
    if isinstance(value, room.RotationTranslation):
        parts = [f"turned by at most {value.max_angle:g} degrees"] if value.max_angle else []
        shift = f"shifted by at most {value.max_shift:g} pixels, down and right each"
        return " and ".join([*parts, *([shift] if value.max_shift else [])]) or "not moved"
    if isinstance(value, room.ColourShift):
        parts = [words.format(limit) for name, words in _COLOURS.items() if (limit := getattr(value, name))]
        return (", ".join(parts) or "colours unchanged") + (", each pixel its own" * value.per_pixel)
    if isinstance(value, room.GaussianNoise):
        return f"Gaussian noise of deviation {value.sigma:g}, in pixels of [0, 1]"
    if isinstance(value, room.Masked):
        return f"within a given region, {in_words(value.neighbourhood)}"
    if isinstance(value, room.Compose):
        return ", and at once ".join(in_words(part) for part in value.parts)
    return repr(value)


def defence(objective: Any) -> str:
    """The first line of what an objective's module says of it."""
    module = inspect.getmodule(type(objective))
    return ((module and module.__doc__) or type(objective).__name__).strip().partition("\n")[0]


def taught(teacher: Any) -> str:
    """Where pseudo-labels come from."""
    how = f"{type(teacher.objective).__name__}, {teacher.num_steps:,} steps"
    return f"Its unlabelled images had the classes that a teacher gave them ({how})."


def not_run(attacks: Sequence[Mapping[str, Any]]) -> list[str]:
    """The attacks of `SUITE`, as tables print them, that are not among rows of an evaluation.

    >>> "AutoAttack" in not_run([{"attack": "PGD-40 (restarts=5) > GridAdv"}])
    True
    >>> "GridAdv" in not_run([{"attack": "PGD-40 (restarts=5) > GridAdv"}])
    False
    """
    members = {share["member"] for row in attacks for share in row.get("broken_by") or ()}
    # A member of AutoAttack by the name that it has alone.
    ran = {*members, *(["APGD-CE"] if "APGD" in members else [])}
    for row in attacks:
        for part in re.sub(r"\([^)]*\)", "", row["attack"]).split(">"):
            ran.add(re.sub(r"-\d+$", "", part.strip()))
    return [entry.title for entry in SUITE.values() if entry.title not in {*ran, CLEAN}]


def intended_use(card: Mapping[str, Any]) -> list[str]:
    """What the model does, and what for."""
    height, width, channels = card["data"]["image_shape"]
    colour = {1: "grey", 3: "colour"}.get(channels, f"{channels}-channel")
    trained = card["objective"]["neighbourhoods"]
    against = "; ".join(one["words"] for one in trained)
    sentences = [
        f"Gives the class of {colour} images of {height}x{width} pixels with values in [0, 1], one of "
        f"{len(card['data']['class_names'])} classes of {card['data']['name']}.",
        f"{card['objective']['words']} Trained against: {against}."
        if trained
        else "Trained without a defence: its objective has no neighbourhood.",
    ]
    if card["training"]["teacher"]:
        sentences.append(card["training"]["teacher"])
    if card["program"]["gradients"]:
        sentences.append(
            "For measuring and comparing robustness: the program has gradients with respect to its images, "
            "so that it can be attacked by anybody."
        )
    return sentences


def limits(card: Mapping[str, Any]) -> list[str]:
    """What is not known of the model, and what was seen to be wrong."""
    found, training = card["evaluation"], card["training"]
    sentences = []
    if not training["finished"]:
        sentences.append(
            f"Training was not finished: the weights are of step {training['checkpoint_step']:,} of "
            f"{training['num_steps']:,}."
        )
    if found is None:
        sentences.append("No accuracy was measured for this card, neither clean nor under attack.")
        sentences.append(f"Not run: {', '.join(not_run([]))}.")
    else:
        sentences += _measured(card, found)
    sentences.append("It gives one of its classes for every image, also for one that shows none of them.")
    return sentences


def _measured(card: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """The limits of an evaluation."""
    seed = card["training"]["seed"]
    sentences = [
        f"Accuracy is of {found['n']:,} test images of {found['dataset']} and of one run (seed {seed}); the "
        "intervals are about the choice of test images, not about other data or other seeds."
    ]
    if found["own_data"] is None:
        sentences.append("Whether these are of the data it was trained on was not recorded.")
    elif not found["own_data"]:
        sentences.append(
            f"These are not the data it was trained on ({card['data']['name']}, fingerprint "
            f"{card['data']['fingerprint'] or 'unknown'})."
        )
    attacked = [row for row in found["attacks"] if row["attack"] not in (CLEAN, WORST)]
    if attacked:
        sentences.append(
            "Accuracy under attack is an upper bound: it is what these attacks left at these radii, and an "
            "attack that is stronger or made for this model may leave less."
        )
    else:
        sentences.append("No attack was run: nothing is known of its robustness.")
    missing = not_run(found["attacks"])
    if missing:
        sentences.append(f"Not run: {', '.join(missing)}.")
    if found["certificate"] is None:
        sentences.append("No robustness is certified.")
    for verdict in found["trust"]:
        if verdict["level"] in ("warn", "fail"):
            name = verdict["check"].replace("_", " ")
            sentences.append(f"Trust check {name}, {verdict['level']}: {verdict['advice']}")
    return sentences

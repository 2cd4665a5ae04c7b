"""A model card as one page of Markdown, for people."""

import json
from collections.abc import Mapping
from typing import Any

_LABELS = {"none": "none (clean)"}

_USE = """\
```python
from jax import export

with open("model.stablehlo", "rb") as file:
    logits_fn = export.deserialize(bytearray(file.read())).call
logits = logits_fn(images)  # [b, {shape}], float32 in [0, 1] -> [b, {classes}]
```
"""


def page(card: Mapping[str, Any]) -> str:
    """The page; everything on it is in the card."""
    sections = [
        f"# {card['name']}",
        " ".join(card["intended_use"]),
        "## Accuracy",
        *_accuracy(card["evaluation"]),
        "## Limits",
        "\n".join(f"- {sentence}" for sentence in card["limits"]),
        "## Use",
        _use(card),
        "## How it was made",
        _table(_made(card), ("", "")),
        "## Files",
        _files(card["files"]),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _accuracy(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["Not measured."]
    lines = ["| attack | radius | accuracy, % | 95% interval |", "|-|-|-:|-:|"]
    for row in [*found["attacks"], *([found["worst"]] if found["worst"] else [])]:
        name = "worst of all" if row is found["worst"] else _LABELS.get(row["attack"], row["attack"])
        every = " (every image counts, also one that was wrong before)" if row["every_image"] else ""
        interval = f"{100 * row['accuracy_low']:.1f}–{100 * row['accuracy_high']:.1f}"
        lines.append(f"| {name}{every} | {row['radius'] or '–'} | {100 * row['accuracy']:.1f} | {interval} |")
    bad = [one["check"] for one in found["trust"] if one["level"] in ("warn", "fail")]
    skipped = [one["check"] for one in found["trust"] if one["level"] == "skipped"]
    checks = f"Trust checks: {len(found['trust']) - len(bad) - len(skipped)} ok"
    checks += f"; not ok: {', '.join(bad)}" if bad else ""
    checks += f"; nothing to measure: {', '.join(skipped)}" if skipped else ""
    about = (
        f"{found['n']:,} test images of {found['dataset']}, seed {found['seed']}, precision "
        f"{found['precision']}, {found['hardware']}. Intervals: {found['interval']}. "
    )
    return ["\n".join(lines), about + (f"{checks}." if found["trust"] else "No trust check was run.")]


def _use(card: Mapping[str, Any]) -> str:
    program = card["program"]
    shape = ", ".join(map(str, card["data"]["image_shape"]))
    code = _USE.format(shape=shape, classes=len(card["data"]["class_names"]))
    gradients = "with gradients with respect to the images" if program["gradients"] else "without gradients"
    return (
        f"{code}\nNeeds `pip install jax flatbuffers`; for {', '.join(program['platforms'])}, any number of "
        f"images, {gradients}. {program['readable']}\n\n`checkpoint/` has the weights as flax variables: "
        "`orbax.checkpoint.StandardCheckpointer().restore(path)` with its absolute path."
    )


def _made(card: Mapping[str, Any]) -> dict[str, str]:
    split, training, data = card["split"], card["training"], card["data"]
    unlabelled = "the remaining" if split["unlabelled"] is None else f"{split['unlabelled']:,}"
    steps = f"{training['num_steps']:,} of {training['batch_size']} images"
    if (per_step := split["images_per_step"]) is not None:
        steps += f" ({per_step['labelled']} labelled, {per_step['unlabelled']} unlabelled)"
    optimizer = training["optimizer"]
    names = ", ".join(data["class_names"][:20]) + (", ..." if len(data["class_names"]) > 20 else "")
    radii = "; ".join(f"{one['value']:g} {one['unit']}" for one in card["threat_model"]["radii"].values())
    further = {name: value for name, value in training["further"].items() if value is not None}
    return {
        "data": f"{data['name']}, fingerprint {data['fingerprint'] or 'unknown'}, classes: {names}",
        "split": f"{split['labelled']:,} labelled ({split['selection']}), {unlabelled} unlabelled, "
        f"{split['validation']:,} for validation; seed {split['seed']}",
        "objective": f"`{json.dumps(card['objective']['config'])}`",
        "threat model": radii,
        "net": f"`{json.dumps(card['model']['config'])}`, {card['model']['parameters']:,} parameters",
        "optimizer": f"{optimizer['name']}, learning rate {optimizer['learning_rate']:g}",
        "steps": steps,
        "seed": str(training["seed"]),
        "checkpoint": f"step {training['checkpoint_step']:,}, weights {training['weights']}",
        **({"further": f"`{json.dumps(further)}`"} if further else {}),
        "versions": ", ".join(f"{name} {version}" for name, version in card["versions"].items()),
        "exported": card["exported"],
    }


def _files(files: Mapping[str, str]) -> str:
    """The hash of the program; a checkpoint may have hundreds of files."""
    return (
        f"SHA-256 of `model.stablehlo`: `{files['model.stablehlo']}`; of every other file, in "
        "`model_card.json`."
    )


def _table(values: Mapping[str, str], head: tuple[str, str]) -> str:
    rows = [f"| {name} | {_cell(value)} |" for name, value in values.items()]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|-|-|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

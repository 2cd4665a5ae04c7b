"""The answers of the service as JSON schemas."""

from typing import Any

from jaxrobust.serving.problems import PREFIX, TITLES
from jaxrobust.serving.served import Served


def schemas(served: Served) -> dict[str, Any]:
    """The schemas by the names that the operations refer to."""
    number, text = {"type": "number"}, {"type": "string"}
    count = {"type": "integer", "minimum": 0}
    share = {"type": "number", "minimum": 0, "maximum": 1}
    cosine = {"type": "number", "minimum": -1, "maximum": 1}
    classes = len(served.class_names)
    label = {"type": "integer", "minimum": 0, "maximum": classes - 1}
    named = _object({"class": label, "name": text, "probability": share})
    stability = _object(
        {
            "neighbourhood": text,
            "samples": count,
            "changed": count,
            "share_changed": share,
            "classes": {"type": "array", "items": _object({"class": label, "name": text, "count": count})},
        }
    )
    about = {
        "model": text,
        "class": label,
        "name": text,
        "probability": share,
        "top": {"type": "array", "items": named},
        "distribution": {
            "type": "array",
            "description": "By class, in the order of /v1/model's class_names; sums to 1.",
            "items": share,
            "minItems": classes,
            "maxItems": classes,
        },
    }
    extra = {
        "view": {
            "type": "string",
            "description": "A PNG as a data: address.",
            "pattern": "^data:image/png;base64,",
        },
        "stability": stability,
    }
    time = {"milliseconds": {"type": "number", "minimum": 0}}
    height, width, _ = served.image_shape
    line = {"type": "array", "items": cosine, "minItems": width, "maxItems": width}
    explained = _object(
        {
            "class": label,
            "name": text,
            "method": text,
            "largest": {"type": "number", "minimum": 0, "description": "What 1 in the map is, in logits."},
            "map": {"type": "array", "items": line, "minItems": height, "maxItems": height},
        }
    )
    card = {"type": "object", "description": "As `jaxrobust export` writes it, or of a run."}
    limits = _object({"bytes": count, "pixels": count, "batch": count})
    sampled = _object({"neighbourhood": text, "samples": count})
    near = {"type": "array", "items": _object({"name": text, "similarity": cosine})}
    found = {
        "Recognition": _object({**about, **time}, extra),
        "Recognitions": _object({"results": {"type": "array", "items": _object(about, extra)}, **time}),
        "Explanation": _object({**about, "explained": explained, **time}, extra),
        "Model": _object(
            {
                "model": text,
                "class_names": {"type": "array", "items": text},
                "image": _object({"height": count, "width": count, "channels": {"enum": [1, 3]}}),
                "tasks": {"type": "array", "items": text},
                "threshold": {"type": ["number", "null"]},
                "enrolled": {"type": "array", "items": text},
                "stability": {"oneOf": [sampled, {"type": "null"}]},
                "limits": limits,
                "card": card,
            }
        ),
        "Reloaded": _object({"model": text, "before": text, "seconds": number}),
        "Alive": _object({"status": {"const": "alive"}}),
        "Ready": _object({"status": {"const": "ready"}, "model": text}),
        "Document": {"type": "object"},
        "Problem": _object(
            {
                "type": {"enum": [PREFIX + kind for kind in TITLES]},
                "title": text,
                "status": {"type": "integer", "minimum": 400, "maximum": 599},
                "detail": text,
                "instance": text,
            },
            {"index": count, "parameter": text},
        ),
    }
    if served.threshold is not None:
        found["Verification"] = _object(
            {
                "model": text,
                "similarity": cosine,
                "threshold": cosine,
                "same_person": {"type": "boolean"},
                **time,
            }
        )
        found["Identification"] = _object(
            {
                "model": text,
                "name": {"type": ["string", "null"]},
                "similarity": cosine,
                "threshold": cosine,
                "enrolled": count,
                "nearest": near,
                **time,
            }
        )
    return found


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }

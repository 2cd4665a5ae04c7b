"""How pages are made of templates: this room's with its style, and those of rooms above that share it."""

from collections.abc import Callable
from typing import Any

import jinja2


def environment(*packages: str, **filters: Callable[..., Any]) -> jinja2.Environment:
    """Templates of these packages, then of this one; text is escaped, an unknown name is an error."""
    rooms = (*packages, "jaxrobust.evaluation")
    found = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(room, "templates") for room in rooms]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters.update(filters)
    return found


def with_command(title: str, command: str, text: str) -> str:
    """A page of Markdown: the title, what was typed, the text."""
    typed = f"```\n{command}\n```\n\n" if command else ""
    return f"# {title}\n\n{typed}{text}\n"

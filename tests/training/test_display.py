"""The bar on a terminal, lines elsewhere."""

import io

from rich.console import Console

from jaxrobust.training._display import Display


def shown(terminal, enabled=True):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=160)
    display = Display(10, 4, enabled=enabled, console=console)
    for step in range(5, 11):
        display.advance(step)
    display.row(10, {"loss": 0.25})
    display.close()
    return out.getvalue()


def test_bar_with_rate_and_time_left():
    text = shown(terminal=True)
    assert "10/10" in text and "steps/s" in text and "left" in text and "loss 0.25" in text


def test_a_line_per_row_elsewhere():
    text = shown(terminal=False)
    assert text.startswith("step 10/10  loss 0.25") and "s left" in text and text.count("\n") == 1


def test_silence():
    assert shown(terminal=True, enabled=False) == ""

"""The examples of the README run as they stand."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_attacking_a_model_in_ten_lines(capsys):
    block = BLOCKS[0]
    assert len([line for line in block.splitlines() if line.strip()]) <= 12
    names: dict = {}
    exec(block, names)
    # The total of 2.0 can rise by 4 * 8 / 255 = 0.125, which takes it past 2.1.
    assert capsys.readouterr().out == "fooled 100%, largest change 0.0314\n"
    assert names["result"].found.all()


def test_attacking_a_defence():
    names: dict = {}
    exec(BLOCKS[1], names)
    assert names["result"].found.mean() > 0.7
    assert names["report"].row("PGD")["accuracy"] < names["report"].row("none")["accuracy"] - 0.5


def test_training_from_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = BLOCKS[2].replace('"num_steps=300"', '"num_steps=2", "batch_size=64", "labelled_per_step=4"')
    code = code.replace('"pgd:steps=40,restarts=5"]', '"pgd:steps=2"], num=20')
    names: dict = {}
    exec(code, names)
    assert names["run"].experiment.objective.lam == 0.5
    assert names["report"].row("none")["n"] == 20


def test_a_released_model_in_five_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "released").mkdir()
    program = jax.export.export(jax.jit(lambda images: images.sum((1, 2))))(jnp.zeros((2, 4, 4, 3)))
    (tmp_path / "released" / "model.stablehlo").write_bytes(program.serialize())
    names: dict = {"images": jnp.ones((2, 4, 4, 3))}
    exec(BLOCKS[3], names)
    assert names["logits"].tolist() == [[16.0] * 3] * 2


def test_the_new_attack_is_an_attack():
    from jaxrobust import attack
    from jaxrobust.neighbourhoods import LInf
    from jaxrobust.types import Attack

    names: dict = {}
    exec(BLOCKS[4], names)
    one = names["OneDraw"](neighbourhood=LInf(eps=0.1))
    assert isinstance(one, Attack)
    x = jnp.full((3, 2, 2, 1), 0.5)
    result = attack(
        one, lambda images: images.reshape(3, -1)[:, :2], x, jnp.zeros(3, jnp.int32), key=jax.random.key(0)
    )
    assert float(abs(result.image - x).max()) <= 0.1 + 1e-6
    assert np.asarray(result.found).shape == (3,)


def test_auditing_where_a_model_looks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "audits.md").read_text(encoding="utf-8")
    block, _ = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict = {}
    exec(block, names)
    assert "worst over maps" in capsys.readouterr().out
    assert names["report"].row("occlusion", perturbation="patch").excess["rolled"].low > 0
    assert (tmp_path / "corner" / "saliency.html").is_file()


def test_auditing_what_features_give_away(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "audits.md").read_text(encoding="utf-8")
    _, block = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict = {}
    exec(block, names)
    assert "By optimisation" in capsys.readouterr().out
    assert names["report"].band == "HIGH" and names["report"].headline == "optimisation"
    assert (tmp_path / "pixels" / "privacy.html").is_file()


@pytest.mark.parametrize("line", re.findall(r"^(jaxrobust [^#\n]*)", README, flags=re.MULTILINE))
def test_the_command_lines_parse(line):
    import shlex

    import click

    from jaxrobust.cli import cli

    words = shlex.split(line)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="jaxrobust")
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
        context = click.Context(command, parent=context, info_name=command.name)
    command.parse_args(context, list(words))
    assert context.params


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target

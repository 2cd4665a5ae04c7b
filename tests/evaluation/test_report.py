import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jaxrobust.attacks import PGD, fgsm
from jaxrobust.evaluation import (
    EvalAttack,
    Level,
    accuracy_curve,
    comparison_table,
    evaluate,
    rows_table,
    verdicts_table,
    write_report,
)
from jaxrobust.evaluation import report as report_module
from jaxrobust.evaluation.table import text
from jaxrobust.neighbourhoods import LInf

ATTACKS = {
    "FGSM": EvalAttack(fgsm(LInf(eps=0.05))),
    "PGD-3": EvalAttack(PGD(neighbourhood=LInf(eps=0.05), steps=3, step_size=0.5), every_image=True),
}


def evaluated(linear, name, shift=0.0, **options):
    params = {**linear.params, "b": linear.params["b"] + np.float32(shift)}
    arguments = (linear.model, params, {}, linear.images, linear.labels)
    report = evaluate(
        *arguments,
        ATTACKS,
        batch_size=16,
        seed=5,
        model_name=name,
        dataset_name="made up",
        class_names=("cat", "dog & <b>"),
        **options,
    )
    curve = accuracy_curve(*arguments, ATTACKS["FGSM"], name="FGSM", batch_size=16, seed=5, factors=(0.5, 1))
    return replace(report, curves=(curve,))


@pytest.fixture(scope="module")
def one(linear):
    return evaluated(linear, "SRT", robust_risk=True, keep_images=True)


@pytest.fixture(scope="module")
def two(linear, one):
    return [evaluated(linear, "Standard", shift=0.4, trust_checks=False), one]


@pytest.fixture(scope="module")
def written(two, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "deep"
    return write_report(
        two,
        folder,
        title="A <script> & a title",
        command="jaxrobust evaluate run --seed 5",
        facts={"labelled images": "100"},
        notes=["A lossy copy."],
    )


def test_the_page_has_the_numbers(written, two):
    page = written.html.read_text(encoding="utf-8")
    for report in two:
        for row in report.rows:
            assert f"{100 * row['accuracy']:.1f}" in page
            assert f"{100 * row['accuracy_low']:.1f} – {100 * row['accuracy_high']:.1f}" in page
    for words in (
        "SRT",
        "Standard",
        "PGD-3",
        "made up",
        "jaxrobust evaluate run --seed 5",
        "A lossy copy.",
        "labelled images",
        "53",
        "R<sub>rob</sub>",
        "numpy",
    ):
        assert words in page


def test_the_page_stands_alone(written):
    page = written.html.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//\w+\.|<script|@import|url\(", page)
    sources = re.findall(r'(?:src|srcset|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:") for source in sources)


def test_what_users_wrote_is_escaped(written):
    page = written.html.read_text(encoding="utf-8")
    assert "A &lt;script&gt; &amp; a title" in page
    assert "dog &amp; &lt;b&gt;" in page


def test_the_page_reads_in_the_dark_on_paper_and_on_a_phone(written):
    page = written.html.read_text(encoding="utf-8")
    for words in (
        "prefers-color-scheme: dark",
        "@media print",
        'name="viewport"',
        "image-rendering: pixelated",
        'lang="en"',
        "<title>",
    ):
        assert words in page
    assert page.count("<img") == page.count("alt=")


def test_the_gallery_shows_what_the_model_saw(written, one):
    page = written.html.read_text(encoding="utf-8")
    sample = one.samples[0]
    shown = np.round(sample.attacked["FGSM"].image * 255).astype(np.uint8)[..., 0]
    found = []
    for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page):
        picture = np.asarray(Image.open(io.BytesIO(__import__("base64").b64decode(data))))
        found.append(picture.shape == (3, 4, 3) and np.array_equal(picture[..., 0], shown))
    assert any(found)


def test_the_best_of_a_row_is_bold_unless_all_are_equal(two):
    page = report_module.html(two, title="t")
    accuracies = [
        [report.row(name)["accuracy"] for report in two] for name in ("none", "FGSM", "PGD-3", "worst")
    ]
    assert page.count('class="best"') == sum(len(set(row)) > 1 for row in accuracies) > 0
    twin = replace(two[0], meta={**two[0].meta, "model": "twin"})
    assert 'class="best"' not in report_module.html([two[0], twin], title="t")


def test_rows_and_flags_lie_beside_the_page(written, two):
    rows = [json.loads(line) for line in written.rows.read_text(encoding="utf-8").splitlines()]
    assert rows == json.loads(json.dumps([row for report in two for row in report.rows]))
    with np.load(written.flags) as flags:
        assert flags["SRT/correct/FGSM"].dtype == bool
        np.testing.assert_array_equal(flags["SRT/correct/FGSM"], two[1].flags["correct/FGSM"])
        assert flags["Standard/correct/worst"].shape == (53,)
    with np.load(written.images) as images:
        np.testing.assert_array_equal(images["SRT/FGSM"], two[1].images["FGSM"])
    summary = json.loads(written.summary.read_text(encoding="utf-8"))
    assert [model["meta"]["model"] for model in summary["models"]] == ["Standard", "SRT"]
    assert summary["models"][1]["curves"][0]["accuracy"] == list(two[1].curves[0].accuracy)


def test_the_picture_is_a_picture(written):
    with Image.open(written.png) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000 < picture.height
        assert len(picture.convert("L").getcolors()) > 20


def test_the_same_numbers_draw_the_same_page(two):
    made = re.compile(r"<dt>written</dt><dd>[^<]*</dd>")
    pages = [made.sub("", report_module.html(two, title="t")) for _ in range(2)]
    assert pages[0] == pages[1]


def test_one_model_without_attacks_curves_or_checks(linear, tmp_path):
    report = evaluate(
        linear.model,
        linear.params,
        {},
        linear.images,
        linear.labels,
        {},
        batch_size=16,
        seed=0,
        num_samples=0,
        trust_checks=False,
    )
    paths = write_report(report, tmp_path, title="clean only")
    assert paths.images is None
    page = paths.html.read_text(encoding="utf-8")
    assert "right on clean images" in page
    assert paths.png.stat().st_size > 1000


def test_colour_images_of_every_size(linear, tmp_path):
    rng = np.random.default_rng(0)
    for shape, crisp in (((32, 32, 3), True), ((96, 96, 3), False), ((8, 8, 4), True)):
        change = rng.uniform(size=shape).astype(np.float32)
        one = evaluated_gallery(linear, change, shape)
        page = report_module.html([one], title="t")
        assert ('class="crisp"' in page) == crisp


def evaluated_gallery(linear, image, shape):
    """A report whose gallery has images of a given shape."""
    report = evaluate(
        linear.model,
        linear.params,
        {},
        linear.images,
        linear.labels,
        ATTACKS,
        batch_size=16,
        seed=0,
        trust_checks=False,
    )
    seen = replace(report.samples[0].clean, image=image)
    attacked = {name: replace(seen, image=np.clip(image + 0.01, 0, 1)) for name in ATTACKS}
    sample = replace(report.samples[0], clean=seen, attacked=attacked)
    return replace(report, samples=(sample,), meta={**report.meta, "image_shape": list(shape)})


def test_warnings_are_shown_with_what_to_do(one):
    bad = replace(one.verdicts[0], level=Level.FAIL, advice="Turn the knob.")
    others = tuple(replace(verdict, level=Level.OK) for verdict in one.verdicts[1:])
    page = report_module.html([replace(one, verdicts=(bad, *others))], title="t")
    assert "Turn the knob." in page
    assert f"1 of {len(one.verdicts)} trust checks not ok" in page
    assert "✗ fail" in page


def test_bad_arguments_are_named(one, tmp_path):
    with pytest.raises(ValueError, match="at least one report"):
        write_report([], tmp_path, title="t")
    with pytest.raises(ValueError, match="different model names"):
        write_report([one, one], tmp_path, title="t")


def test_tables_print_the_numbers(two):
    single, several = text(rows_table(two[1])), text(comparison_table(two))
    for row in two[1].rows:
        assert f"{100 * row['accuracy']:.1f}" in single
        assert f"{100 * row['accuracy']:.1f}" in several
    assert "(every)" in single
    assert "Standard" in several
    assert "worst of all" in several


def test_the_table_of_verdicts_says_what_to_do(one):
    assert "0 of" in text(
        verdicts_table(replace(one, verdicts=tuple(replace(v, level=Level.OK) for v in one.verdicts)))
    )
    bad = replace(one.verdicts[0], level=Level.WARN, advice="Turn the knob.")
    shown = text(verdicts_table(replace(one, verdicts=(bad,))))
    assert "Turn the knob." in shown
    assert "warn" in shown


def test_curves_say_on_how_many_images_they_rest(two, tmp_path):
    fewer = [replace(one, curves=tuple(replace(curve, n=1234) for curve in one.curves)) for one in two]
    write_report(fewer, tmp_path, title="t", command="c")
    text = (tmp_path / "report.html").read_text()
    assert "on 1,234 images of the set" in text and "at the largest radius, 1,234 images" in text

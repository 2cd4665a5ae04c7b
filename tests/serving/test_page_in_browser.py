"""The page in a real browser, against the command: upload, result, slider, heat map, errors, keyboard, key.

Needs Debian's `chromium`; its driver is playwright's, which brings its own.
"""

import re
import shutil
import urllib.parse
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from jaxrobust.serving import Service
from tests.serving.service_under_test import SMALL, Command, digits, running

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
KEY = "k" * 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Digits learned in a few seconds."""
    from jaxrobust import experiments
    from jaxrobust.training import Runtime

    changes = ["num_steps=300", "validate_every=0", "objective.attack.steps=2", "data.num_validation=20"]
    experiment = experiments.apply_overrides(experiments.get("digits_at"), changes)
    found = tmp_path_factory.mktemp("runs") / "digits"
    experiments.train(experiment, found, runtime=Runtime(num_devices=1), progress=False)
    return found


@pytest.fixture(scope="module")
def server(folder):
    with Command(folder) as command:
        yield command


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("There is no chromium; Debian has it: apt-get install chromium.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser):
    """Opens an address; fails at the end of the test for anything that the page complained about."""
    opened, complaints = [], []

    def opening(address, **options):
        context = browser.new_context(**options)
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: outside(request.url, address))
        page.goto(address)
        return page

    def outside(url, address):
        parts = urllib.parse.urlparse(url)
        if parts.scheme not in ("data", "blob") and not url.startswith(address):
            complaints.append(f"asked for {url}")

    yield opening
    for context in opened:
        context.close()
    assert not complaints


@pytest.fixture
def files(tmp_path):
    """An image of each of some digits, larger than the model's, and what is no image."""
    for i, image in enumerate(digits(4)):
        Image.fromarray(np.kron(image[..., 0], np.ones((20, 20), np.uint8))).save(tmp_path / f"{i}.png")
    (tmp_path / "text.png").write_text("not an image")
    return tmp_path


def choose(page, file):
    """Gives the page a file and waits for the answer to it."""
    before = page.evaluate("document.body.dataset.answer")
    page.set_input_files("#file", file)
    page.wait_for_function("before => (document.body.dataset.answer ?? null) !== before", arg=before)


def asked(server, file, query=""):
    body = {"content": Path(file).read_bytes(), "headers": {"content-type": "image/png"}}
    return httpx.post(f"{server.address}/v1/recognise{query}", **body).json()


def bars(page):
    return [float(text.rstrip("%")) for text in page.locator("#bars .value").all_inner_texts()]


def test_upload_result_slider_heat_map_and_neighbours(server, open_page, files):
    page = open_page(server.address)
    assert "10 classes" in page.inner_text("#model")
    assert page.is_hidden("#answer") and page.is_disabled("#angle")
    choose(page, files / "0.png")
    expected = asked(server, files / "0.png")
    assert page.inner_text("#best") == expected["name"]
    np.testing.assert_allclose(bars(page), 100 * np.array(expected["distribution"]), atol=0.06)
    size = page.evaluate("[document.getElementById('view').naturalWidth, view.naturalHeight]")
    assert size == [8, 8] and "8 × 8 pixels, grey" in page.inner_text("figcaption")

    # The slider by keyboard: the prediction follows, and the view.
    seen = page.get_attribute("#view", "src")
    page.focus("#angle")
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    moved = asked(server, files / "0.png", "?angle=40")
    page.wait_for_function(
        "share => document.querySelector('#bars .first .value').textContent === share",
        arg=f"{100 * moved['probability']:.1f}%",
    )
    assert page.inner_text("#angle-value") == "40°" and page.get_attribute("#view", "src") != seen
    np.testing.assert_allclose(bars(page), 100 * np.array(moved["distribution"]), atol=0.06)
    if moved["name"] != expected["name"]:
        assert page.inner_text("#changed") == f"Unmoved it was {expected['name']}."
    # Readers of the screen hear it, once the slider rests.
    heard = "text => document.getElementById('status').textContent === text"
    page.wait_for_function(heard, arg=f"{moved['name']}, {100 * moved['probability']:.1f}%.")
    page.click("#reset")
    page.wait_for_function("src => document.getElementById('view').src === src", arg=seen)

    page.check("#heat-on")
    page.wait_for_selector("#heat:not([hidden])")
    canvas = "document.getElementById('heat')"
    drawn = f"Array.from({canvas}.getContext('2d').getImageData(0, 0, 8, 8).data)"
    alpha = np.array(page.evaluate(drawn)).reshape(8, 8, 4)[..., 3]
    assert alpha.max() == 200 and alpha.min() < 150
    before = ",".join(map(str, page.evaluate(drawn)))
    page.select_option("#heat-class", str((expected["class"] + 1) % 10))
    page.wait_for_function(f"before => {drawn}.join() !== before", arg=before)

    page.click("#stability")
    page.get_by_text("of 16 random neighbours").wait_for()
    assert "at most 0.15" in page.inner_text("#stable")


def test_errors_are_told_and_leave_the_page_usable(server, open_page, files):
    page = open_page(server.address)
    page.set_input_files("#file", files / "text.png")
    page.wait_for_selector("#error:not([hidden])")
    assert "This is no image" in page.inner_text("#error")
    assert page.get_attribute("#error", "role") == "alert" and page.is_hidden("#answer")
    choose(page, files / "1.png")
    assert page.is_hidden("#error") and page.is_visible("#answer")


def test_a_dropped_and_a_pasted_image_are_taken(server, open_page, files):
    page = open_page(server.address)
    for number, kind in enumerate(("drop", "paste")):
        before = page.evaluate("document.body.dataset.answer")
        page.evaluate(
            """([bytes, kind]) => {
                const carried = new DataTransfer();
                carried.items.add(new File([Uint8Array.from(bytes)], "x.png", { type: "image/png" }));
                const event = kind === "drop"
                    ? new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true })
                    : new ClipboardEvent("paste", { clipboardData: carried, bubbles: true });
                document.getElementById("drop").dispatchEvent(event);
            }""",
            [list((files / f"{number}.png").read_bytes()), kind],
        )
        page.wait_for_function("before => (document.body.dataset.answer ?? null) !== before", arg=before)
        assert page.inner_text("#best") == asked(server, files / f"{number}.png")["name"]


def test_all_of_it_by_keyboard_in_the_order_of_the_page(server, open_page, files):
    page = open_page(server.address)
    # Somebody listens from the start: the browser is told to hand its choosers over in time.
    page.on("filechooser", lambda chooser: None)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(files / "0.png")
    page.wait_for_selector("#answer:not([hidden])")
    order = []
    for _ in range(8):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", f"Focus on {order[-1]} is not seen."
    assert order == ["stability", "angle", "right", "down", "reset", "heat-on", "heat-class", "A"]
    named = "Array.from(document.querySelectorAll('input, select')).every(one => one.labels.length > 0)"
    assert page.evaluate(named), "Every control has a label."


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1100, 900), (320, 640), (390, 844), (667, 375)])
def test_nothing_is_cut_off_and_text_has_contrast(server, open_page, files, width, height, colours):
    page = open_page(server.address, viewport={"width": width, "height": height}, color_scheme=colours)
    choose(page, files / "2.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ratios = page.evaluate(
        """() => {
            const light = (colour) => {
                const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => {
                    const s = v / 255;
                    return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
                });
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const behind = (node) => {
                const colour = getComputedStyle(node).backgroundColor;
                return /, 0\\)$/.test(colour) && node.parentElement ? behind(node.parentElement) : colour;
            };
            const texts = ["h1", "#model", "#best", "#bars .name", "#time", "#stability", "a", "legend"];
            return texts.map((one) => {
                const node = document.querySelector(one);
                const both = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => b - a);
                return [one, (both[0] + 0.05) / (both[1] + 0.05)];
            });
        }"""
    )
    assert all(ratio >= 4.5 for _, ratio in ratios), ratios
    if width < 400:
        answer, controls = (page.locator(f".{one}").bounding_box()["y"] for one in ("answer", "controls"))
        assert answer < controls, "On a phone the answer stands above the sliders."
        page.evaluate("document.getElementById('down').scrollIntoView({ block: 'end' })")
        image, slider = (page.locator(f"#{one}").bounding_box() for one in ("view", "angle"))
        assert image["y"] >= 0 and image["y"] + image["height"] <= slider["y"], "And the image is in sight."
    # Whoever moves the slider sees the class: in large letters, or with the image on a phone.
    page.evaluate("document.getElementById('angle').scrollIntoView({ block: 'end' })")
    named, slider = (
        page.locator(one).bounding_box() for one in ("#brief" if width < 400 else "#best", "#angle")
    )
    assert named["y"] >= 0 and named["y"] + named["height"] <= height, named
    assert slider["y"] >= 0 and slider["y"] + slider["height"] <= height + 1, slider
    # And an error, wherever the page has been scrolled to.
    page.set_input_files("#file", files / "text.png")
    page.wait_for_selector("#error:not([hidden])")
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert page.locator("#error").bounding_box()["y"] >= 0


def test_an_answer_about_what_is_not_shown_any_more_is_not_told(server, open_page, files):
    page = open_page(server.address)
    choose(page, files / "0.png")
    page.evaluate(
        """() => {
            const honest = window.fetch;
            window.fetch = async (path, options) => {
                const slow = String(path).includes("stability");
                if (slow) await new Promise((go) => { window.go = go; });
                const response = await honest(path, options);
                if (slow) setTimeout(() => { window.told = true; }, 100);
                return response;
            };
        }"""
    )
    for change in (lambda: page.keyboard.press("ArrowRight"), lambda: choose(page, files / "1.png")):
        page.click("#stability")
        page.wait_for_function("() => !!window.go")
        page.focus("#angle")
        change()
        page.evaluate("() => { window.told = false; window.go(); window.go = null; }")
        page.wait_for_function("() => window.told && !document.getElementById('stability').disabled")
        assert page.inner_text("#stable") == ""


def test_the_heat_map_is_told_in_words(server, open_page, files):
    page = open_page(server.address)
    choose(page, files / "0.png")
    page.check("#heat-on")
    page.wait_for_selector("#heat:not([hidden])")
    name = page.inner_text("#best")
    place = "(at the|in the middle|nowhere)"
    assert re.match(
        f"Heat map: most for {name} {place}.*, most against it {place}",
        page.get_attribute("#heat", "aria-label"),
    )


def test_a_locked_service_asks_for_its_key(folder, open_page, files, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    with Command(folder, "--api-key-file", keys) as command:
        page = open_page(command.address)
        page.wait_for_selector("#key-form:not([hidden])")
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('error').textContent.includes('Bearer')")
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-form", state="hidden")
        choose(page, files / "0.png")
        assert page.inner_text("#best")
        assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0


def test_a_server_that_is_gone_is_said_to_be(folder, open_page, files):
    with Command(folder) as command:
        page = open_page(command.address)
        choose(page, files / "0.png")
        assert command.stop() == 0
        page.click("#stability")
        page.wait_for_selector("#error:not([hidden])")
        assert "does not answer" in page.inner_text("#error")


def test_two_faces_are_compared_and_looked_for(open_page, tmp_path):
    """Digits stand for faces; the net has random weights."""
    from tests.serving.test_verification import GALLERY, IMAGES, face_model

    for i in (0, 4):
        Image.fromarray(IMAGES[i][..., 0]).save(tmp_path / f"{i}.png")
    with running(Service(face_model(0.9999), settings=SMALL)) as address:
        page = open_page(address)
        page.wait_for_selector("#faces:not([hidden])")
        page.click("#compare")
        assert page.inner_text("#same") == "Choose two images first."
        page.set_input_files("#first", tmp_path / "0.png")
        for other, verdict in ((0, "One person: similarity 1.000"), (4, "Two people")):
            page.set_input_files("#second", tmp_path / f"{other}.png")
            page.click("#compare")
            page.get_by_text(verdict).wait_for()
        page.click("#identify")
        page.get_by_text(f"{next(iter(GALLERY))}: nearest").wait_for()

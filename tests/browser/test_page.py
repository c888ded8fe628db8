"""The page at `/`, as a person uses it."""

import base64
import io
import json
import subprocess

import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from conftest import EXAMPLES, KEY, ROOT

PICTURES = [EXAMPLES / "pizza.png", EXAMPLES / "cat_face.png", EXAMPLES / "umbrella.png"]
TEXTS = ["cat face", "pizza", "umbrella", "a \"quoted\" text, it's one; @twice"]

# The contrast of every text with what lies under it, of those below what WCAG's level AA asks for.
FAINT = """
const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
const rgba = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data; };
const linear = (byte) => { const c = byte / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const under = (found) => { for (let at = found; at; at = at.parentElement) {
  const color = rgba(getComputedStyle(at).backgroundColor); if (color[3] === 255) return color; } return [255, 255, 255, 255]; };
const faint = [];
let seen = 0;
for (const found of document.querySelectorAll('body *')) {
  const own = [...found.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !found.checkVisibility()) continue;
  seen += 1;
  const [a, b] = [light(rgba(getComputedStyle(found).color)), light(under(found))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < 4.5) faint.push(`${found.outerHTML.slice(0, 80)}: ${contrast.toFixed(2)}`);
}
return [seen, faint];
"""

# Controls and pictures without a name for those who do not see them.
NAMELESS = """
const found = [...document.querySelectorAll('button, input, textarea, [role=region], img')];
return found.filter((found) => found.checkVisibility()).filter((found) => {
  if (found.tagName === 'IMG') return !found.hasAttribute('alt');
  const by = (found.getAttribute('aria-labelledby') ?? '').split(' ').map((id) => document.getElementById(id)?.textContent ?? '').join('');
  return !(by || found.ariaLabel || found.labels?.[0]?.textContent || (found.tagName === 'BUTTON' && found.textContent.trim()));
}).map((found) => found.outerHTML);
"""


def example(browser, name):
    browser.run("[...document.querySelectorAll('.example')].find((found) => found.textContent === arguments[0]).click()", name)


def compared(browser, pictures=PICTURES, texts=TEXTS):
    browser.choose(pictures)
    browser.type(texts)
    browser.compare()


def assert_shown(browser, answer, texts=TEXTS):
    """Bars and heat map have the numbers of `answer`, each of them in its place."""
    assert browser.numbers("#heat td data") == [logit for row in answer["logits_per_image"] for logit in row]
    bars = """return [...document.querySelectorAll('.card')].map((card) => [...card.querySelectorAll('li')].map(
      (bar) => [bar.querySelector('.name').textContent, Number(bar.querySelector('data').value)]))"""
    ranked = [sorted(zip(texts, probs), key=lambda pair: -pair[1]) for probs in answer["probs"]]
    assert browser.run(bars) == [[list(pair) for pair in pairs] for pairs in ranked]


def test_it_says_what_runs(browser, service):
    browser.open(service.url)
    assert "emoji-clip, on cpu, in f32, 192 dimensions" in browser.until_said("#model", "emoji-clip")


def test_bars_and_heat_map_have_the_numbers_of_the_answer(browser, service):
    browser.open(service.url)
    compared(browser)
    assert_shown(browser, service.post(PICTURES, TEXTS))
    # The longest bar is the largest share, and as long as that.
    bar, rail = browser.run("""const bar = document.querySelector('.bar');
      return [parseFloat(getComputedStyle(bar, '::before').width), bar.getBoundingClientRect().width]""")
    assert bar / rail == pytest.approx(browser.numbers(".card data")[0], abs=0.01)
    assert [cell.text for cell in browser.all("#heat thead th")] == TEXTS
    # The hottest cell is the largest logit, and no other has its colour.
    colours = browser.run("""return [...document.querySelectorAll('#heat td data')].map(
      (data) => getComputedStyle(data.parentElement).backgroundColor)""")
    logits = browser.numbers("#heat td data")
    hottest = colours[logits.index(max(logits))]
    assert colours.count(hottest) == 1 and hottest != colours[logits.index(min(logits))]


def test_the_times_are_those_of_the_header_and_the_rest(browser, service):
    browser.open(service.url)
    compared(browser)
    said = browser.run("""return performance.getEntriesByType('resource').find(({ name }) => name.endsWith('/similarity'))
      .serverTiming.map(({ duration }) => duration)""")
    assert len(said) == 3
    assert browser.numbers("#times data")[:3] == said
    assert browser.numbers("#times data")[3] > 0


def test_the_curl_line_does_the_same(browser, service, tmp_path):
    browser.open(service.url)
    strange = tmp_path / "it's, a; \"strange\" name.png"
    strange.write_bytes((EXAMPLES / "snowman.png").read_bytes())
    browser.choose([strange])
    browser.type(TEXTS)
    example(browser, "pizza")
    browser.until(lambda: len(browser.all(".card")) == 2)
    answer = json.loads(subprocess.run(browser.text("#curl"), shell=True, cwd=tmp_path, check=True, capture_output=True).stdout)
    assert answer == service.post([strange, EXAMPLES / "pizza.png"], TEXTS)
    assert_shown(browser, answer)


def test_an_example_is_one_click(browser, service):
    browser.open(service.url)
    names = json.loads((EXAMPLES / "expected.json").read_text())
    examples = browser.all(".example")
    assert sorted(found.text for found in examples) == sorted(names.values())
    examples[0].click()
    browser.until(lambda: len(browser.all(".card")) == 1)
    assert browser.text(".card .name") == examples[0].text, "the model in the box knows it"
    # The same again is not a second picture.
    examples[0].click()
    examples[1].click()
    browser.until(lambda: len(browser.all(".card")) == 2)
    assert [found.text for found in browser.all(".picture .name")] == ["cat_face.png", "dog_face.png"]


def test_pictures_are_dropped_and_pasted(browser, service):
    browser.open(service.url)
    transfer = """
      const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
      const data = new DataTransfer();
      data.items.add(new File([bytes], arguments[1], { type: arguments[2] }));
      document.body.dispatchEvent(arguments[3] === 'paste'
        ? new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true })
        : new DragEvent(arguments[3], { dataTransfer: data, bubbles: true, cancelable: true }));
      return document.body.className;
    """
    content = base64.b64encode(PICTURES[0].read_bytes()).decode()
    assert browser.run(transfer, content, "dropped.png", "image/png", "dragover") == "dragging"
    assert browser.run(transfer, content, "dropped.png", "image/png", "drop") == ""
    browser.run(transfer, content, "pasted.png", "image/png", "paste")
    assert [found.text for found in browser.all(".picture .name")] == ["dropped.png", "pasted.png"]
    browser.run(transfer, content, "notes.txt", "text/plain", "drop")
    assert browser.text("#error") == "No picture: notes.txt"
    browser.type(["pizza", "cat face"])
    browser.compare()
    first, second = browser.numbers(".card li:first-child data")
    assert first == second


def test_the_keyboard_does_it_all(browser, service):
    """From the top of the page by Tab: pictures by an example, texts, comparing, the heat map, and a picture away again."""
    browser.open(service.url)
    browser.until_said("#model", "emoji-clip")

    def press(*keys):
        ActionChains(browser.driver).send_keys(*keys).perform()

    def with_control(key):
        ActionChains(browser.driver).key_down(Keys.CONTROL).send_keys(key).key_up(Keys.CONTROL).perform()

    def focused():
        return browser.run("const at = document.activeElement; return at.id || at.ariaLabel || at.textContent")

    def tab_to(name, most=40):
        for _ in range(most):
            press(Keys.TAB)
            if focused() == name:
                shown = "const at = document.activeElement; return getComputedStyle(at.closest('.drop') ?? at).outlineStyle"
                assert browser.run(shown) != "none", f"{name} does not show its focus"
                return
        raise AssertionError(f"Tab does not reach {name}")

    tab_to("files")
    tab_to("mushroom")
    press(Keys.ENTER)
    browser.until(lambda: len(browser.all(".card")) == 1)
    tab_to("umbrella")
    press(Keys.SPACE)
    browser.until(lambda: len(browser.all(".card")) == 2)
    tab_to("texts")
    with_control("a")
    press("mushroom\numbrella")
    with_control(Keys.ENTER)
    browser.until(lambda: len(browser.all("#heat thead th")) == 2)
    pictures = [EXAMPLES / "mushroom.png", EXAMPLES / "umbrella.png"]
    assert_shown(browser, service.post(pictures, ["mushroom", "umbrella"]), ["mushroom", "umbrella"])
    tab_to("compare")
    tab_to("heat")
    tab_to("curl")
    tab_to("copy")
    tab_to("Remove mushroom.png")
    press(Keys.ENTER)
    assert [found.text for found in browser.all(".picture .name")] == ["umbrella.png"]
    assert focused() == "Remove umbrella.png", "the focus stays near what is gone"
    press(Keys.ENTER)
    assert focused() == "files"


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_is_wider_than_a_phone(browser, service, width):
    browser.size(width, 800, mobile=True)
    browser.open(service.url)
    compared(browser, texts=[*TEXTS, "w" * 300, *(f"text {n}" for n in range(30))])
    widths = browser.run("return [document.documentElement.scrollWidth, innerWidth, visualViewport.width]")
    assert widths == [width] * 3
    # What is wide scrolls by itself.
    assert browser.run("const heat = document.querySelector('#heat'); return heat.scrollWidth > heat.clientWidth")
    small = browser.run("""return [...document.querySelectorAll('button')].filter((button) => button.checkVisibility()
      && Math.min(button.offsetWidth, button.offsetHeight) < 24).map((button) => button.outerHTML)""")
    assert small == [], "a finger does not hit it"


@pytest.mark.parametrize("is_dark", [False, True])
def test_it_is_read_by_day_and_in_the_dark(browser, service, is_dark):
    browser.dark(is_dark)
    browser.open(service.url)
    compared(browser)
    browser.run("document.querySelector('#key-form').hidden = false")
    ground = browser.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(ground) < 60) if is_dark else (min(ground) > 200)
    seen, faint = browser.run(FAINT)
    assert seen > 60 and faint == []


def test_what_is_not_seen_has_a_name(browser, service):
    browser.open(service.url)
    compared(browser)
    assert browser.run(NAMELESS) == []
    assert browser.run("return document.documentElement.lang") == "en"
    levels = browser.run("""return [...document.querySelectorAll('h1, h2, h3')].filter((title) => title.checkVisibility())
      .map((title) => Number(title.tagName[1]))""")
    assert levels[0] == 1 and all(after - before <= 1 for before, after in zip(levels, levels[1:]))
    assert browser.one("#error").get_attribute("role") == "alert"
    assert browser.one("#status").get_attribute("role") == "status"


def test_with_a_key_it_asks_for_it(browser, keyed_service):
    browser.open(keyed_service.url)
    browser.until(lambda: browser.one("#key-form").is_displayed())
    assert browser.run("return document.activeElement.id") == "key"
    browser.one("#key").send_keys("wrong", Keys.ENTER)
    browser.until_said("#error", "That is not the key of this service.")
    browser.one("#key").send_keys("no key: ü", Keys.ENTER)
    browser.until_said("#error", "no blanks")
    browser.one("#key").send_keys(KEY, Keys.ENTER)
    browser.until_said("#model", "emoji-clip")
    assert not browser.one("#key-form").is_displayed() and not browser.one("#error").is_displayed()
    compared(browser)
    curl = browser.text("#curl")
    assert "$CLIPSERVE_API_KEY" in curl and KEY not in browser.driver.page_source
    # Of this tab: a reload keeps it, and nothing else does.
    browser.driver.refresh()
    browser.until_said("#model", "emoji-clip")
    assert browser.run("return [localStorage.length, document.cookie]") == [0, ""]


def test_while_the_model_loads_it_says_so_and_goes_on(browser, stand_in):
    stand_in.refuse("/info", 503, "not_ready", "the model is still loading")
    stand_in.refuse("/readyz", 503, "not_ready", "starting", times=2)
    browser.open(stand_in.url)
    browser.until_said("#model", "The model is still loading. This page goes on by itself.")
    browser.until_said("#model", "emoji-clip")
    assert stand_in.asked.count("/readyz") == 3


def test_a_busy_service_is_asked_again(browser, stand_in):
    stand_in.refuse("/similarity", 429, "overloaded", "the queue is full", times=2, retry_after="1", retry_after_ms="50")
    browser.open(stand_in.url)
    compared(browser)
    assert stand_in.asked.count("/similarity") == 3
    stand_in.refuse("/similarity", 429, "overloaded", "the queue is full", times=4, retry_after="1", retry_after_ms="1")
    browser.one("#compare").click()
    assert "the queue is full" in browser.until_said("#error", "The service is busy.")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (413, "payload_too_large", "That is too much for one request."),
        (501, "not_supported", "The model that is served cannot do this."),
        (504, "deadline_exceeded", "The service took longer than it may."),
        (500, "internal", "That is its fault, not yours."),
        (503, "shutting_down", "The service is shutting down."),
    ],
)
def test_a_refusal_is_shown_in_words(browser, stand_in, status, code, words):
    stand_in.refuse("/similarity", status, code, "what the service says")
    browser.open(stand_in.url)
    browser.choose(PICTURES)
    browser.type(TEXTS)
    browser.one("#compare").click()
    shown = browser.until_said("#error", words)
    assert "what the service says" in shown
    assert ("id-of-the-test" in shown) == (status >= 500)


def test_what_is_no_answer_of_the_service_is_said_as_well(browser, stand_in):
    stand_in.answers["/similarity"] = [(502, {"content-type": "text/html"}, b"<h1>Bad gateway</h1>")]
    browser.open(stand_in.url)
    browser.choose(PICTURES)
    browser.type(TEXTS)
    browser.one("#compare").click()
    browser.until_said("#error", "The service answered with status 502.")


def test_a_bad_picture_is_named(browser, service, tmp_path):
    browser.open(service.url)
    bad = tmp_path / "bad.png"
    bad.write_bytes(PICTURES[0].read_bytes()[:500])
    browser.choose([PICTURES[0], bad])
    browser.type(TEXTS)
    browser.one("#compare").click()
    assert "Picture 2 (bad.png): " in browser.until_said("#error", "A picture cannot be read.")
    assert [found.text for found in browser.all(".picture.bad .name")] == ["bad.png"]
    # The way out: without it the others are answered.
    browser.run("document.querySelector('[aria-label=\"Remove bad.png\"]').click()")
    browser.compare()
    assert not browser.one("#error").is_displayed()


def test_what_is_missing_or_too_much_is_said_before_it_is_sent(browser, service):
    browser.open(service.url)
    browser.until_said("#model", "emoji-clip")
    browser.one("#compare").click()
    browser.until_said("#error", "Choose a picture first.")
    browser.choose([PICTURES[0]])
    browser.one("#compare").click()
    browser.until_said("#error", "Type a text first.")
    assert browser.run("return document.activeElement.id") == "texts"
    browser.run("document.querySelector('#texts').value = arguments[0]", "\n".join(f"text {n}" for n in range(1025)))
    browser.one("#compare").click()
    browser.until_said("#error", "There are 1025 texts, and the service takes 1024 at a time.")
    assert not any(url.endswith("/similarity") for url in browser.asked())
    # For the check at the end.
    browser.driver.refresh()


def test_the_policy_keeps_other_scripts_and_styles_out(unchecked_browser, service):
    """That the checks of all tests here can fail."""
    browser = unchecked_browser.open(service.url)
    browser.run("""
      const script = document.createElement('script');
      script.textContent = 'window.ran = true';
      document.body.append(script);
      document.body.setAttribute('style', 'color: red');
      const image = new Image();
      image.src = 'https://elsewhere.example/pixel.png';
    """)
    browser.until(lambda: len(browser.run("return window.kept")) == 3)
    assert browser.run("return window.ran") is None
    with pytest.raises(AssertionError):
        browser.check()


def test_the_picture_of_the_readme_can_be_had(browser, service):
    """Writes docs/images/page.png where there is none: remove it to have it anew."""
    browser.size(1000, 900)
    browser.open(service.url)
    for number, name in enumerate(["cat face", "pizza", "umbrella"]):
        example(browser, name)
        browser.until(lambda count=number + 1: len(browser.all(".card")) == count)
    bottom = browser.run("return document.querySelector('#heat-title').closest('section').getBoundingClientRect().bottom + scrollY")
    clip = {"x": 0, "y": 0, "width": 1000, "height": bottom + 8, "scale": 1}
    shot = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    taken = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    # A palette halves it and shows on no screen.
    small = io.BytesIO()
    taken.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    assert taken.width == 1000 and 10_000 < small.tell() < 150_000
    picture = ROOT / "docs" / "images" / "page.png"
    if not picture.exists():
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(small.getvalue())

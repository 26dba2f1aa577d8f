"""The page in a real browser: it draws without errors and without a network, and the slider moves the circuit."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mechinterp.pages import report

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra 'dev')")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH (Debian: apt-get install chromium)"),
]
QUIET = ["--headless", "--no-sandbox", "--disable-gpu"] + [
    f"--disable-{part}" for part in ("background-networking", "component-update", "sync")
]
WIDTHS = """name => document.getElementById(name).data.filter(t => t.name).map(t => [t.name, t.line.width])"""
DRAWN = """name => [...document.querySelectorAll(`#${name} .scatterlayer .trace path.js-line`)]
    .map(path => parseFloat(path.style.strokeWidth))"""


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


class Seen:
    """A page that was opened, all that it asked for, and all that it complained about."""

    def __init__(self, browser, path: Path, width: int):
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.complaints.append(m.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.route("**/*", lambda r: r.continue_() if r.request.url.startswith(("file:", "data:")) else r.abort())
        self.page.goto(path.as_uri())
        self.page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 6")


@pytest.fixture(scope="module")
def path(run, study, tmp_path_factory) -> Path:
    return report(run, tmp_path_factory.mktemp("page") / "report.html", study)


@pytest.mark.parametrize("width", [1280, 420])
def test_it_draws_without_errors_and_without_a_network(browser, path: Path, width: int):
    seen = Seen(browser, path, width)
    seen.page.screenshot(path=path.with_name(f"report-{width}.png"), full_page=True)
    assert seen.complaints == []
    assert seen.requests == [path.as_uri()]
    assert path.with_name(f"report-{width}.png").stat().st_size > 50_000
    overflow = seen.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0
    plots = seen.page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].map(p => p.getBoundingClientRect().width)"
    )
    assert len(plots) == 6 and all(0.9 * min(width, 860) - 20 <= plot <= width for plot in plots)


def test_the_slider_moves_the_circuit(browser, path: Path, study):
    seen = Seen(browser, path, 1280)
    page, name = seen.page, "circuit-plot"
    last, drawn = dict(page.evaluate(WIDTHS, name)), page.evaluate(DRAWN, name)
    strong = "L0.H2 → L1.H1.k"
    assert last[strong] > 5 and max(drawn) > 5
    rail = page.locator(f"#{name} .slider-rail-touch-rect")
    rail.scroll_into_view_if_needed()
    rail.click(position={"x": 2, "y": 5})
    page.wait_for_function(f"document.getElementById('{name}').layout.sliders[0].active === 0")
    # The slider is there before the picture is.
    page.wait_for_function(f"Math.max(...({DRAWN})('{name}')) < 1")
    first = dict(page.evaluate(WIDTHS, name))
    assert first[strong] < 0.6 and max(page.evaluate(DRAWN, name)) < 1
    assert page.locator(f"#{name} .slider-label").first.text_content() == "training step 0"
    page.screenshot(path=path.with_name("circuit-at-step-0.png"))
    # The same by keyboard: one step to the right, then back to the left end, where it stops.
    page.locator("#circuit-plot-figure").focus()
    page.wait_for_timeout(500)  # the click's own animation ends
    active = f"document.getElementById('{name}').layout.sliders[0].active"
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"{active} === 1")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"{active} === 0")
    assert seen.complaints == []


def test_play_runs_through_training_until_paused(browser, path: Path):
    seen = Seen(browser, path, 1280)
    page = seen.page
    play, pause = (page.locator("#circuit-plot .updatemenu-button").nth(i) for i in (0, 1))
    active = "document.getElementById('circuit-plot').layout.sliders[0].active"
    last = page.evaluate(active)
    play.click()
    # From the last step it starts anew.
    page.wait_for_function(f"{active} > 1 && {active} < {last}")
    pause.click()
    stopped = page.evaluate(active)
    page.wait_for_timeout(600)
    assert abs(page.evaluate(active) - stopped) <= 1 < last
    assert seen.complaints == []


def test_figures_fit_the_paper_while_printing_and_the_screen_after(browser, path: Path):
    seen = Seen(browser, path, 1280)
    page = seen.page
    widths = (
        "[...document.querySelectorAll('.js-plotly-plot .main-svg:first-child')].map(s => +s.getAttribute('width'))"
    )
    before = page.evaluate(widths)
    page.evaluate(f"addEventListener('beforeprint', () => window.printed = {widths})")
    page.pdf(path=path.with_name("report.pdf"), format="A4", margin={side: "15mm" for side in ("left", "right")})
    assert set(page.evaluate("window.printed")) == {660} and set(before) == {860}
    page.wait_for_function(f"{widths}.every(width => width === 860)")
    assert seen.complaints == []

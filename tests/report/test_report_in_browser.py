"""report.html in headless Chromium: it loads nothing, sorts, opens, fits a phone, has two themes, and prints."""

import re
from pathlib import Path

import made_up
import pytest
from browser import Browser

from sam.runs.command import train_command

PHONE = 375


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(made_up.page(made_up.runs(), ("a problem with a name as long as this one: " + "x" * 200,)))
    return file


@pytest.fixture
def shown(browser: Browser, path: Path) -> Browser:
    browser.screen(1280, 900)
    browser.open(path)
    return browser


def test_it_loads_without_an_error_and_without_a_request(shown: Browser, path: Path) -> None:
    assert shown.requests()[-1:] == [path.as_uri()]
    shown.open(path)
    assert shown.requests() == [path.as_uri()]
    assert shown.log("browser") == []


def test_it_could_not_load_anything_if_it_tried(shown: Browser, path: Path) -> None:
    shown.requests()
    refused = "return fetch('http://127.0.0.1:9/').then(() => 'loaded', (e) => e.name)"
    assert shown.run(refused) == "TypeError"
    shown.run("document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/x.png'}))")
    shown.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.injected = 1'}))")
    assert shown.run("return window.injected") is None
    assert shown.requests() == []
    assert all("Content Security Policy" in entry["message"] for entry in shown.log("browser"))


COLUMN = """
const table = [...document.querySelectorAll('.block .scroll > table')].findLast((t) => t.caption.textContent.startsWith(arguments[0]));
if (table.closest('.more')) table.closest('.more').open = true;
const column = [...table.tHead.rows[0].cells].findIndex((c) => c.querySelector('button').textContent === arguments[1]);
table.tHead.rows[0].cells[column].querySelector('button').setAttribute('data-test', 'sort');
return [...table.tBodies[0].rows].map((row) => [row.querySelector('th').textContent, row.cells[column].dataset.sort ?? null]);
"""


def column(browser: Browser, header: str) -> list[tuple[str, float | None]]:
    """(row, mean) of a column of the first full table, from top to bottom; its button is marked for `click`."""
    rows = browser.run(COLUMN, "Table 2", header)
    return [(label, None if value is None else float(value)) for label, value in rows]


def test_a_click_sorts_by_the_mean_with_empty_cells_last(shown: Browser) -> None:
    before = column(shown, "Gap ×10³")
    assert [value for _, value in before[2:]] == [None, None, None]  # 2, 3 and 5 ascent steps were not run
    state = "return document.querySelector('[data-test]').closest('th').getAttribute('aria-sort')"
    for direction, sign in (("ascending", 1), ("descending", -1)):
        shown.click("[data-test]")
        after = column(shown, "Gap ×10³")
        numbers = [sign * value for _, value in after if value is not None]
        assert numbers == sorted(numbers) and len(numbers) == 2 and [label for label, _ in after[2:]] == ["2", "3", "5"]
        assert shown.run(state) == direction
    shown.click("[data-test]")
    assert column(shown, "Gap ×10³") == before and shown.run(state) == "none"


def test_equal_means_keep_their_order(shown: Browser) -> None:
    before = column(shown, "L(w)")
    assert len({value for _, value in before[:2]}) == 1
    shown.click("[data-test]")
    assert column(shown, "L(w)") == before
    shown.click("[data-test]")
    assert column(shown, "L(w)") == before


def test_negative_and_tiny_numbers_sort_as_numbers(shown: Browser) -> None:
    header = "Accuracy (%)"
    column(shown, header)
    spoil = "rows.forEach((row, i) => { row.cells[1].dataset.sort = ['9', '-10', '-2', '1e-5', '1e3'][i]; })"
    shown.run(f"const rows = [...document.querySelector('[data-test]').closest('table').tBodies[0].rows]; {spoil}")
    shown.click("[data-test]")
    assert [value for _, value in column(shown, header)] == [-10, -2, 1e-5, 9, 1000]


def test_numbers_sort_as_numbers(shown: Browser) -> None:
    header = "Sharpness ×10³ (ρ 0.05)"
    assert [value for _, value in column(shown, header)[:2]] == pytest.approx([13.125, 9.25])  # as text, 13 would come first
    shown.click("[data-test]")
    assert [value for _, value in column(shown, header)[:2]] == pytest.approx([9.25, 13.125])


def test_a_number_opens_to_its_runs_and_a_run_to_its_command(shown: Browser) -> None:
    run = made_up.runs()[3]
    cell = "#table-1 .scroll td.value details"
    assert not shown.run("return document.querySelector(arguments[0]).checkVisibility()", f"{cell} a")
    shown.click(f"{cell} summary")
    assert shown.run("return document.querySelector(arguments[0]).textContent", f"{cell} a") == run.folder.split("/")[-1]
    shown.click(f"{cell} a")
    opened = "const e = document.querySelector('.run[open] .command');"
    command, visible, top = shown.run(opened + "return [e.textContent, e.checkVisibility(), e.getBoundingClientRect().top]")
    assert command == train_command(run.config) and visible and 0 <= top < 900


def test_a_point_of_a_figure_leads_to_its_run(shown: Browser) -> None:
    shown.run("document.querySelector('.chart a').dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))")
    assert shown.run("return document.querySelector(':target')?.open") is True


@pytest.mark.parametrize("opened", [False, True])
def test_nothing_is_wider_than_a_phone(shown: Browser, opened: bool) -> None:
    shown.screen(PHONE, 800, mobile=True)
    if opened:
        shown.run("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    assert shown.run("return [innerWidth, document.documentElement.scrollWidth]") == [PHONE, PHONE]
    box = "const box = document.querySelector('.scroll'); box.scrollLeft = 1000; const b = box.getBoundingClientRect();"
    first = "const c = box.querySelector('tbody th').getBoundingClientRect(); return [box.scrollLeft, c.left - b.left, b.right]"
    scrolled, offset, right = shown.run(box + first)
    assert scrolled > 100 and abs(offset) <= 2 and right <= PHONE  # it scrolls by itself, and the row's name stays


def rgb(browser: Browser, selector: str, key: str) -> tuple[int, ...]:
    value = browser.run("return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, key)
    return tuple(map(int, re.findall(r"\d+", value)))[:3]


def contrast(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """The ratio of WCAG 2, 1 to 21."""

    def light(colour: tuple[int, ...]) -> float:
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_dark_and_light_differ_and_both_can_be_read(shown: Browser) -> None:
    pages = {}
    for dark in (False, True):
        shown.screen(1280, 900, dark=dark)
        page = pages[dark] = rgb(shown, "body", "backgroundColor")
        for selector in ("body", "figcaption", "a", ".notes li"):
            assert contrast(rgb(shown, selector, "color"), page) >= 4.5, (dark, selector)
        assert contrast(rgb(shown, ".chart text", "fill"), page) >= 4.5
        for i in range(13):  # the colours of the methods, as graphics
            shown.run("document.body.style.outlineColor = `var(--c${arguments[0]})`", i)
            assert contrast(rgb(shown, "body", "outlineColor"), page) >= 3, (dark, i)
    assert sum(pages[False]) > 700 and sum(pages[True]) < 120
    shown.click("#theme")
    assert rgb(shown, "body", "backgroundColor") == pages[False]
    shown.click("#theme")
    assert rgb(shown, "body", "backgroundColor") == pages[True]


def test_it_prints_on_white_with_every_run_open_and_no_controls(shown: Browser) -> None:
    shown.screen(794, 1123, dark=True)
    shown.devtools("Emulation.setEmulatedMedia", media="print")
    try:
        assert rgb(shown, "body", "backgroundColor") == (255, 255, 255)
        assert shown.run("return getComputedStyle(document.getElementById('theme')).display") == "none"
        wide = "return [...document.querySelectorAll('table')].filter((t) => t.getBoundingClientRect().right > innerWidth + 1).length"
        assert shown.run(wide) == 0  # what cannot scroll must fit
        shown.run("dispatchEvent(new Event('beforeprint'))")
        assert (
            shown.run("return document.querySelectorAll('.run:not([open]), .more:not([open], .block *), #made details:not([open])').length")
            == 0
        )
        shown.run("dispatchEvent(new Event('afterprint'))")
        assert shown.run("return document.querySelectorAll('.run[open]').length") == 0
    finally:
        shown.devtools("Emulation.setEmulatedMedia", media="")
    pdf = shown.pdf()
    assert pdf.startswith(b"%PDF-") and len(re.findall(rb"/Type\s*/Page\b", pdf)) > 5


def test_contents_stand_beside_the_page_where_it_is_wide_and_fold_where_it_is_not(shown: Browser) -> None:
    visible = "return document.querySelector('nav a').checkVisibility({contentVisibilityAuto: true, visibilityProperty: true})"
    place = "const a = document.querySelector('nav').getBoundingClientRect(), b = document.querySelector('main').getBoundingClientRect();"
    beside = place + "return [a.top >= 0 && a.top < innerHeight && a.bottom > 0, a.right <= b.left]"
    shown.screen(1400, 900)
    shown.run("document.getElementById('table-2').scrollIntoView()")
    shown.run("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")
    assert shown.run(visible) is True and shown.run(beside) == [True, True]
    assert shown.run("return [...document.querySelectorAll('nav a:target-current')].map((a) => a.textContent)") == ["Table 3 layout"]
    shown.screen(1000, 900)
    assert shown.run(visible) is False
    shown.click(".contents summary")
    assert shown.run(visible) is True


def test_a_note_and_its_table_lead_to_each_other(shown: Browser) -> None:
    shown.click("#table-1 thead sup a")
    assert shown.run("return document.querySelector(':target').matches('.notes > li')") is True
    shown.click(".notes > li:target a")
    assert shown.run("return document.querySelector(':target').id") == "table-1"
    assert (
        shown.run("return document.querySelector('#table-1 th[aria-sort]').ariaSort") == "none"
    )  # the number beside a header sorts nothing

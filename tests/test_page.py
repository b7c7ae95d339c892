"""The page in a real browser: a user, a history of one's own, reasons, keyboard, phone, light and
dark.
"""

import os
import re
import shutil
from pathlib import Path

import pytest

from support.errors import run_command
from tests.conftest import SERVED, serve, start_service, write_shop

CHROMIUM = next(
    filter(
        None,
        map(shutil.which, ("chromium", "chromium-browser", "google-chrome")),
    ),
    None,
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="test_page.py: no Chromium found; install it to run these",
    ),
]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ARTEFACTS = Path(os.environ.get("PAGE_SCREENSHOTS", "test-artefacts"))


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS
        )
        yield browser
        browser.close()


@pytest.fixture()
def page(browser, live_service, request):
    """The page, opened; a message on its console, a failed request or one to another host fails
    the test.
    """
    options = {
        "viewport": {"width": 1280, "height": 900},
        **getattr(request, "param", {}),
    }
    context = browser.new_context(**options)
    page, faults = context.new_page(), []
    page.on(
        "console",
        lambda message: (
            faults.append(message.text)
            if message.type in ("error", "warning")
            else None
        ),
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.asked = []
    page.on(
        "request",
        lambda asked: (
            page.asked.append(asked.post_data_json)
            if asked.url.endswith("/recommend")
            else None
        ),
    )
    page.on(
        "request",
        lambda asked: (
            None
            if asked.url.startswith((live_service, "data:"))
            else faults.append(f"asked another host: {asked.url}")
        ),
    )
    page.goto(live_service)
    page.wait_for_selector("article .because")
    yield page
    context.close()
    # the browser notes each refusal on its console
    refused = "wrong" in request.node.name
    assert not [
        fault for fault in faults if not (refused and "status of 400" in fault)
    ]


def titles(page, name="main"):
    return page.locator(f"[data-testid=items-{name}] h3").all_inner_texts()


def until(page, expression):
    """Wait for JavaScript to be true; Playwright's own way needs eval, which the page's policy
    forbids.
    """
    for _ in range(300):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise TimeoutError(expression)


def settled(page):
    """Wait until nothing is being asked, nor about to be."""
    for _ in range(2):
        page.wait_for_timeout(250)
        until(
            page,
            "!document.querySelector('section[aria-busy=true], .placeholder')",
        )


def test_a_user_has_ten_films_with_reasons(page, live_service):
    import httpx

    page.locator("#user").fill("12")
    page.keyboard.press("Enter")
    until(
        page,
        "document.querySelector('[data-testid=profile]').innerText.length > 10",
    )
    settled(page)
    expected = httpx.post(
        f"{live_service}/recommend", json={"user_id": 12}
    ).json()["recommendations"]
    assert titles(page) == [item["name"] for item in expected]
    assert page.locator("article .because").count() == 10
    assert re.search(
        r"films, mean rating",
        page.locator("[data-testid=profile]").inner_text(),
    )
    before = page.locator("#user").input_value()
    page.get_by_role("button", name="somebody else").click()
    until(page, f"document.querySelector('#user').value !== '{before}'")


def test_the_time_of_the_request(browser, service_files):
    """Where the served model knows it: other films at another time, those of the models beside it
    as they were.
    """
    process, url = start_service(
        service_files,
        "--workers",
        "1",
        "--model_path",
        str(service_files / "timed" / "best"),
    )
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector("article .because")
        page.locator("#compare").check()
        found = {}
        for moment in ("2001-02-03T04:05", "2001-08-03T04:05"):
            page.locator("#at").fill(moment)
            settled(page)
            assert "never sees the time" not in page.inner_text("form")
            found[moment] = [
                titles(page, name)
                for name in ("main", "vanilla", "popularity")
            ]
        (main, *others), (later, *same) = found.values()
        assert (
            len(main) == 10
            and main != later
            and others == same
            and all(others)
        )
    finally:
        context.close()
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.parametrize(
    "page",
    [
        {"viewport": {"width": width, "height": 900}}
        for width in (390, 768, 1000, 1280)
    ],
    indirect=["page"],
)
def test_side_by_side(page, live_service):
    """Each column its own model's answer; reasons are readable at any width, and nothing is wider
    than the page.
    """
    page.get_by_label("Side by side").check()
    settled(page)
    page.wait_for_selector("article .because")
    columns = {
        name: titles(page, name) for name in ("main", "vanilla", "popularity")
    }
    for films in columns.values():
        assert len(films) == 10
    assert len({tuple(films) for films in columns.values()}) == 3
    widths = page.evaluate(
        "[...document.querySelectorAll('.because .name')].map((name) => name.clientWidth)"
    )
    assert widths and min(widths) > 150
    assert page.evaluate(
        "document.documentElement.scrollWidth <= window.innerWidth"
    )
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(
        path=ARTEFACTS / f"beside-{page.viewport_size['width']}.png",
        full_page=True,
    )


def test_a_wrong_user_is_said_and_mended(page):
    page.locator("#user").fill("999")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]")
    assert "999 is not in" in page.inner_text("[role=alert]")
    page.locator("#user").fill("3")
    page.keyboard.press("Enter")
    page.wait_for_selector("article .because")
    assert not page.locator("[role=alert]").count()


@pytest.mark.parametrize(
    ("page", "name"),
    [
        (
            {
                "viewport": {"width": 390, "height": 844},
                "color_scheme": "light",
            },
            "phone-light",
        ),
        (
            {
                "viewport": {"width": 390, "height": 844},
                "color_scheme": "dark",
            },
            "phone-dark",
        ),
        (
            {
                "viewport": {"width": 1280, "height": 900},
                "color_scheme": "light",
            },
            "wide-light",
        ),
        (
            {
                "viewport": {"width": 1280, "height": 900},
                "color_scheme": "dark",
            },
            "wide-dark",
        ),
    ],
    indirect=["page"],
)
def test_nothing_is_cut(page, name):
    """No sideways scrolling, no element wider than its place; dark is dark; a screenshot
    is kept."""
    assert page.evaluate(
        "document.documentElement.scrollWidth <= window.innerWidth"
    )
    wide = page.evaluate("""[...document.querySelectorAll('main *')].filter((one) =>
        one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 1
        && getComputedStyle(one).overflowX !== 'visible'
        && !one.closest('.ts-wrapper, .visually-hidden, input, select')
        ).map((one) => one.outerHTML.slice(0, 200))""")
    assert not wide
    shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", shade)[0]) < 80) == name.endswith("dark")
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)


def test_a_condition_on_a_column_changes_the_list(page):
    before = titles(page)
    page.locator("select[id*=genres] + .ts-wrapper input").first.fill("Dra")
    page.wait_for_selector('.ts-dropdown .option.active:has-text("Drama")')
    page.keyboard.press("Enter")
    settled(page)
    assert titles(page) != before and page.asked[-1]["where"] == [
        "genres=Drama"
    ]


def test_another_list_is_asked_for(page):
    before = titles(page)
    page.locator("#liked").check()
    page.locator("#diversity").fill("0.9")
    settled(page)
    asked = page.asked[-1]
    assert asked["rank_by"] == "liked" and asked["diversity"] == 0.9
    assert titles(page) != before
    page.locator("#liked").uncheck()
    page.locator("#diversity").fill("0")
    settled(page)
    assert titles(page) == before


# A shop: text ids, repeats, tags and numbers of users


@pytest.fixture(scope="module")
def shop_page(browser, tmp_path_factory):
    import trainer

    folder = tmp_path_factory.mktemp("shop")
    places = [
        "--checkpoint_dir",
        str(folder / "model"),
        "--runs_dir",
        str(folder),
    ]
    small = [*SERVED, "--dataset", str(write_shop(folder)), *places]
    assert run_command(trainer.main, small) == 0
    process, url = serve(
        "--model_path", str(folder / "model" / "best"), "--workers", "1"
    )
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    page = context.new_page()
    page.asked = []
    page.on(
        "request",
        lambda asked: (
            page.asked.append(asked.post_data_json)
            if asked.url.endswith("/recommend")
            else None
        ),
    )
    page.goto(url)
    page.wait_for_selector("article h3")
    settled(page)
    yield page
    context.close()
    process.terminate()
    process.wait(timeout=30)


def test_the_shop_has_its_own_words_and_widgets(shop_page):
    text = shop_page.inner_text("body")
    assert "My articles" in text and re.search(
        r"income \d+; \d+ articles", text
    )
    assert not re.search(
        r"\b(films?|movies?|watched|genres?|Asked at)\b", text, re.IGNORECASE
    )
    for label in (
        "Club",
        "Income",
        "Shelf: any of",
        "Price from",
        "New articles only",
    ):
        assert label in text
    assert shop_page.evaluate(
        "document.documentElement.scrollWidth <= window.innerWidth"
    )


def test_articles_that_were_bought_can_be_left_out(shop_page):
    assert shop_page.asked[-1]["filter_seen"] is False
    before = titles(shop_page)
    shop_page.get_by_label("New articles only").check()
    settled(shop_page)
    assert (
        shop_page.asked[-1]["filter_seen"] is True
        and titles(shop_page) != before
    )
    shop_page.get_by_label("New articles only").uncheck()
    settled(shop_page)


def test_a_value_with_a_comma_is_one_value(shop_page):
    box = shop_page.locator("select[id*=shelf] + .ts-wrapper input").first
    box.fill("food")
    shop_page.keyboard.press("Enter")
    settled(shop_page)
    assert shop_page.asked[-1]["where"] == ["shelf=food, fresh"]
    assert not shop_page.locator("[role=alert]").count() and titles(shop_page)
    shop_page.locator(".ts-wrapper .remove").first.click()
    settled(shop_page)


def test_facts_go_with_their_user_and_a_history_is_found_by_name(shop_page):
    shop_page.locator("#user-income").fill("12")
    shop_page.keyboard.press("Tab")
    settled(shop_page)
    assert shop_page.asked[-1]["columns"] == {"income": 12}
    shop_page.get_by_role("button", name="My articles").click()
    box = shop_page.locator("#history + .ts-wrapper input").first
    for name in ("Article 1", "Article 2", "Article 1"):
        box.press_sequentially(name)
        active = (
            "document.querySelector('.ts-dropdown .option.active')?.innerText"
        )
        until(shop_page, f"{active} === '{name}'")
        shop_page.keyboard.press("Enter")
        settled(shop_page)
    assert "columns" not in shop_page.asked[-1]
    assert shop_page.asked[-1]["history"] == ["sku-1", "sku-2", "sku-1"]


def test_all_reasons_by_keyboard(shop_page):
    """Tab to a card, Enter opens, the drawer can be scrolled at once, Escape gives focus back."""
    button = shop_page.locator("article h3 button").first
    button.focus()
    shop_page.keyboard.press("Enter")
    shop_page.wait_for_selector(".offcanvas.show .because")
    until(
        shop_page,
        "document.activeElement.classList.contains('offcanvas-body')",
    )
    drawer = shop_page.inner_text(".offcanvas")
    assert "Rank" in drawer and "Articles of the history" in drawer
    assert "\u22120.00" not in drawer
    shop_page.keyboard.press("Escape")
    until(shop_page, "!document.querySelector('.offcanvas')")
    assert shop_page.evaluate(
        "document.activeElement.matches('article button')"
    )

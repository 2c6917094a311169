"""The page in a real browser: nothing is logged, nothing overflows on a phone, both themes apply."""

import json
import os
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest

from holdfast.report import write_report
from report_folders import digits_run, evaluated_run, interrupted_run, ten_class_run, void_run

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)"
)

PHONE, DESKTOP = (375, 800), (1280, 900)
LONG = "a-name-without-any-place-to-break-" * 6
# Measures the page as laid out and leaves the figures in an attribute, where --dump-dom shows them.
# Measures the page as laid out in a frame of a given size (a window of its own is never narrower than 500) and leaves the
# figures in an attribute of the outer document, where --dump-dom shows them.
PROBE = """<script>
addEventListener("load", () => {
  const root = document.documentElement, inside = e => e.closest(".scroll, pre, svg, details:not([open]) > :not(summary)");
  const over = [...document.body.querySelectorAll("*")].filter(
    e => !inside(e) && e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 0.5);
  const shown = [...document.querySelectorAll("svg.bracket")].filter(e => e.getClientRects().length);
  parent.document.documentElement.dataset.probe = JSON.stringify({
    inner: innerWidth, scroll: root.scrollWidth, over: over.slice(0, 5).map(e => e.outerHTML.slice(0, 120)),
    background: getComputedStyle(document.body).backgroundColor, brackets: shown.map(e => e.textContent),
    text: document.body.innerText, pictures: [...document.images].map(e => e.complete && e.naturalWidth > 0),
    smallest: Math.min(...shown.flatMap(e => [...e.querySelectorAll("text")].map(t => t.getBoundingClientRect().height))),
  });
});
</script>"""


def browse(page: Path, size: tuple[int, int], profile: Path, *options: str) -> tuple[str, list[str]]:
    """The page's document after loading, and what it wrote to the console (errors, refused requests)."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        f"--user-data-dir={profile}",
        f"--window-size={size[0]},{size[1]}",
        *options,
        "--dump-dom",
        page.as_uri(),
    ]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    )
    return result.stdout, [line for line in result.stderr.splitlines() if ":CONSOLE" in line]


def measured(page: Path, size: tuple[int, int], profile: Path, *options: str) -> dict:
    """What the probe finds in a copy of the page; the copy goes without the policy that keeps scripts out."""
    html = page.read_text(encoding="utf-8")
    copy = page.with_name(f"probed-{page.name}")
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    assert bare != html
    frame = f'<iframe style="border:0;width:{size[0]}px;height:{size[1]}px" srcdoc="{escape(bare + PROBE)}"></iframe>'
    copy.write_text(f'<!doctype html><meta charset="utf-8">{frame}', encoding="utf-8")
    document, console = browse(copy, DESKTOP, profile, *options)
    assert not console
    found = re.search(r'<html data-probe="([^"]*)"', document)
    assert found, "the probe did not run"
    return json.loads(unescape(found[1]))


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """One run; and four side by side, one of them with names as long as they are hostile."""
    root = tmp_path_factory.mktemp("pages")
    one = digits_run(root / "one")
    hostile = ten_class_run(
        root / "hostile",
        name=f"<script>console.error(1)</script>{LONG}",
        certificate_reason=LONG,
        attack=LONG,
        threat=LONG,
        drift=[{"layer": LONG, "value": 1.0, "radius": 2.0}],
        per_class=[{"class_name": LONG, "examples": 1, "clean_accuracy": 1.0}],
    )
    doubted = evaluated_run(
        root / "doubted",
        threat=LONG,
        attacks=LONG,
        data=LONG,
        part=LONG,
        stages=[{"name": LONG, "kind": "attack", "entered": 39, "left": 35, "seconds": 1e4, "note": LONG}],
        verdict={
            "word": "doubt",
            "warnings": [{"name": LONG, "level": "bad", "sentence": LONG, "remedy": LONG}],
        },
        hardest=[{"example": 31, "label": LONG, "loss": None}],
        per_class=[{"class_name": LONG, "examples": 1, "verified_accuracy": 1.0}],
    )
    evaluated = evaluated_run(root / "evaluated")
    several = [one, hostile, void_run(root / "void"), interrupted_run(root / "stopped"), evaluated, doubted]
    return {
        "one": write_report([one], root / "one.html"),
        "hostile": write_report([hostile], root / "hostile.html"),
        "evaluated": write_report([evaluated], root / "evaluated.html"),
        "doubted": write_report([doubted], root / "doubted.html"),
        "several": write_report(several, root / "several.html"),
    }


def test_the_console_check_sees_errors_and_refused_requests(tmp_path):
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; script-src 'unsafe-inline'\">"
    page = tmp_path / "bad.html"
    page.write_text(
        f"<!doctype html>{policy}<img src='https://example.invalid/x.png'><script>console.error('seen')</script>"
    )
    console = browse(page, DESKTOP, tmp_path / "profile")[1]
    assert any("seen" in line for line in console)
    assert any("example.invalid" in line for line in console)


def test_the_page_as_written_logs_nothing(pages, tmp_path):
    document, console = browse(pages["several"], DESKTOP, tmp_path / "profile")
    assert not console
    assert "</html>" in document


@pytest.mark.parametrize("name", ["one", "hostile", "evaluated", "doubted", "several"])
def test_a_phone_shows_the_whole_width(pages, tmp_path, name):
    found = measured(pages[name], PHONE, tmp_path / "profile")
    assert found["inner"] == PHONE[0]
    assert found["scroll"] <= PHONE[0], found["over"]
    assert not found["over"]
    assert found["smallest"] >= 11, "labels of the bracket are too small to read"


def test_a_desktop_shows_the_bracket_and_the_pictures(pages, tmp_path):
    found = measured(pages["one"], DESKTOP, tmp_path / "profile")
    assert found["scroll"] <= DESKTOP[0]
    assert len(found["brackets"]) == 1, "one of the two layouts is shown"
    for figure in ("0.3913", "0.4327", "0.4391", "gap 0.0414"):
        assert figure in found["brackets"][0]
        assert figure in found["text"] or figure.startswith("gap")
    assert found["pictures"] == [True] * 18
    assert found["background"] == "rgb(255, 255, 255)"


def test_a_desktop_shows_the_bracket_of_accuracy(pages, tmp_path):
    found = measured(pages["evaluated"], DESKTOP, tmp_path / "profile")
    assert len(found["brackets"]) == 2
    for figure in ("55.00 %", "87.50 %", "97.50 %", "open 32.50 %", "38.49 % to 70.74 %"):
        assert figure in found["brackets"][1]
    assert found["pictures"] == [True] * (18 + 9)


def test_dark_is_dark(pages, tmp_path):
    found = measured(pages["one"], DESKTOP, tmp_path / "profile", "--blink-settings=preferredColorScheme=0")
    assert max(int(part) for part in re.findall(r"\d+", found["background"])) < 48

"""The report: what it says of certified, estimated, void and interrupted runs; what it escapes, refuses and leaves alone."""

import base64
import io
import json
import os
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from holdfast import _formats as formats
from holdfast.errors import InputError, RunFolderError
from holdfast.report import bracket as bracket_module
from holdfast.report import images, page, read_run, svg, write_report
from holdfast.report.html import labels, loss_shares
from report_folders import digits_run, interrupted_run, ten_class_run, void_run, write_summary

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}"
VOID_TAGS = {"meta", "link", "img", "br", "hr", "path", "rect", "circle"}


class Seen(HTMLParser):
    """What a browser would make of the page: its elements with attributes, and the text a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID_TAGS:
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


def seen(*folders: Path) -> Seen:
    found = Seen(page([read_run(folder) for folder in folders]))
    assert not found.open, f"never closed: {found.open}"
    return found


def lead(folder: Path) -> str:
    """The headline sentence, as read."""
    found = re.search(r'class="lead">(.*?)</h2>', page([read_run(folder)]), re.DOTALL)
    assert found, "the page has no headline"
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", "", found[1]))).strip()


# What the page says


def test_a_certified_run_is_told_as_a_bracket_with_its_gap(tmp_path):
    folder = digits_run(tmp_path / "run")
    text = seen(folder).text
    assert lead(folder) == (
        "The optimal robust loss of this network class within 20 of the initial weights lies between 0.3913 and 0.4391; "
        "this network loses 0.4327 under the training attack: gap 0.0414."
    )
    assert "certified The lower bound is proved for this run." in text
    assert "and the curvature of softplus is at most 1/4." in text
    for name in (
        "Optimisation",
        "Attack",
        "Capacity",
        "0.3913 to 0.4391",
        "largest part: 89 %",
        "96.29 %",
        "87.03 %",
        "85.18 %",
    ):
        assert name in text
    assert "not a surrogate loss" in text


def test_an_estimate_never_reads_as_a_proof(tmp_path):
    folder = ten_class_run(tmp_path / "run")
    text, sentence = seen(folder).text, lead(folder)
    assert "is estimated to lie between 0.0312 and, as far as the strongest attack tells, 0.2014" in sentence
    assert "estimated gap 0.1561" in sentence
    assert "lower estimate" in text
    before_glossary = text.split("What the words mean")[0]
    assert "certified" not in before_glossary
    unclaimed = before_glossary.replace("not proved", "").replace("nothing is proved", "")
    assert not re.search(r"\bproved\b(?! for)", unclaimed)


def test_a_void_run_claims_no_lower_bound_even_where_the_folder_holds_one(tmp_path):
    folder = void_run(tmp_path / "run")
    assert read_run(folder).lower == 0.3913  # it is there, and must not be shown
    found = seen(folder)
    html = page([read_run(folder)])
    assert lead(folder).startswith(
        "The certificate is void: no lower bound is claimed. This network loses 0.4327 under the training attack"
    )
    assert "Dropout was active in rounds 1 to 60" in found.text
    assert "0.3913" not in html, "the bound of a void certificate is shown"
    assert "0.3812" not in html, "the void bound at a radius is shown"
    assert "of the loss" not in found.text.split("What the words mean")[0], "shares need a lower bound"


def test_an_interrupted_run_has_a_page_of_what_was_measured(tmp_path):
    folder = interrupted_run(tmp_path / "run")
    run = read_run(folder)
    assert (len(run.epochs), run.unread_lines) == (4, 1)
    text = seen(folder).text
    assert "This run was interrupted" in text
    assert "No lower bound was recorded for this run." in text
    assert "no certificate" in text
    assert text.count("not measured") > 10
    assert "1 line of metrics.jsonl could not be read." in text


def test_a_folder_of_an_empty_summary_alone_has_a_page(tmp_path):
    write_summary(tmp_path, {})
    assert "No loss was recorded: not measured." in seen(tmp_path).text


@pytest.mark.parametrize("status", ["certified", "estimate"])
@pytest.mark.parametrize("bound", [-527.0, -0.2, 0.0])
def test_a_bound_that_is_the_trivial_one_is_no_figure(tmp_path, status, bound):
    folder = digits_run(
        tmp_path / "run",
        robust_loss_lower_bound=bound,
        gap=264.2,
        certificate_status=status,
        certificate_informative=bound > 0,
        bounds_at_radii=[{"radius": r, "lower_bound": bound * r, "status": status} for r in (1.0, 20.0)],
    )
    text = seen(folder).text
    assert lead(folder).startswith(
        "Nothing can be said at this radius (20) of how far this network is from the best"
    )
    assert "264.2" not in text
    assert f"{formats.MINUS}527" not in text
    assert "to 0.4391" not in text, "no bracket from the trivial bound"


def test_the_trivial_bound_need_not_be_zero(tmp_path):
    changes = {
        "robust_loss_lower_bound": 0.3250830,
        "certificate_floor": 0.3250830,
        "certificate_informative": False,
    }
    folder = digits_run(tmp_path / "run", **changes)
    assert "Nothing can be said at this radius" in lead(folder)
    assert read_run(folder).claimed_lower is None


def test_without_an_upper_bound_the_bracket_is_half_open(tmp_path):
    folder = digits_run(tmp_path / "run", robust_loss_upper_bound=None, robust_loss_upper_kind=None)
    assert "is at least 0.3913; this network loses 0.4327 under the training attack" in lead(folder)


def test_several_runs_stand_side_by_side(tmp_path):
    folders = [
        digits_run(tmp_path / "a"),
        ten_class_run(tmp_path / "b"),
        void_run(tmp_path / "c"),
        interrupted_run(tmp_path / "d"),
    ]
    text = seen(*folders).text
    assert "4 runs compared" in text
    table = re.search(r"Side by side (.*?) Where the loss comes from", text)[1]
    for row in (
        "Certificate certified estimate void no certificate",
        "Lower bound 0.3913 0.0312 estimated not claimed not measured",
        "Gap 0.0414 0.1561 estimated not claimed not measured",
        "Threat l2:0.1 linf:0.1 l2:0.1 linf:0.1",
    ):
        assert row in table
    for name in ("digits-3-8", "mnist-conv", "with-dropout", "stopped"):
        assert text.count(name) > 8


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [digits_run(tmp_path / "a"), digits_run(tmp_path / "b"), digits_run(tmp_path / "deeper" / "b")]
    found = labels([read_run(folder) for folder in folders])
    assert found == ["1. digits-3-8 (a)", "2. digits-3-8 (b)", "3. digits-3-8 (b)"]
    assert labels([read_run(folder) for folder in folders[:2]]) == ["digits-3-8 (a)", "digits-3-8 (b)"]


@pytest.mark.parametrize(
    ("attack", "data", "cited", "not_cited"),
    [
        (
            "PGD(steps=10)",
            "digits",
            ("1906.07916", "1706.06083", "10.24432/C50P49"),
            ("1412.6572", "5.726791"),
        ),
        ("FGSM()", "mnist", ("1906.07916", "1412.6572", "5.726791"), ("1706.06083", "C50P49")),
        ("Mine()", "mine", ("1906.07916",), ("1706.06083", "1412.6572", "5.726791", "C50P49")),
    ],
)
def test_a_run_cites_what_it_used(tmp_path, attack, data, cited, not_cited):
    html = page([read_run(digits_run(tmp_path / "run", attack=attack, data={"name": data}))])
    assert all(work in html for work in cited)
    assert not any(work in html for work in not_cited)


def test_counts_of_rounds_may_run_on_or_start_anew_each_epoch(tmp_path):
    write_summary(tmp_path, {})
    for rounds, expected in (
        ([4, 8, 12], [4, 8, 12]),
        ([4, 4, 4], [4, 8, 12]),
        ([5, 5, 3], [5, 10, 13]),
        ([None] * 3, [1, 2, 3]),
    ):
        lines = [json.dumps({"epoch": i, "rounds": r, "online_loss": 1.0}) for i, r in enumerate(rounds)]
        (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
        assert [epoch.rounds for epoch in read_run(tmp_path).epochs] == expected


# What users typed, and figures that are none


def test_everything_users_typed_is_escaped(tmp_path):
    folder = digits_run(
        tmp_path / "run",
        name=EVIL,
        threat=EVIL,
        attack=f"PGD {EVIL}",
        loss=EVIL,
        certificate_reason=EVIL,
        bound_source=EVIL,
        command=["holdfast", EVIL],
        started=EVIL,
        versions={EVIL: EVIL},
        accuracy_on=EVIL,
        data={"name": EVIL, "examples": 2, "class_names": [EVIL, EVIL]},
        network={"name": EVIL, "parameters": 1, "activation": EVIL},
        robust_loss_upper_kind=EVIL,
        drift=[{"layer": EVIL, "value": 1.0, "radius": 2.0}],
        per_class=[{"class_name": EVIL, "examples": 1}],
    )
    (folder / "config.yaml").write_text(f"{EVIL}\nname: {EVIL}\n# {EVIL}\n")
    (folder / "log.txt").write_text(EVIL)
    (folder / "metrics.jsonl").write_text(
        json.dumps({"epoch": 1, "online_loss": 1.0, "void": EVIL, "drift": {EVIL: 1.0}})
    )
    for folders in ([folder], [folder, folder]):
        found = seen(*folders)
        assert not [tag for tag, _ in found.elements if tag == "script"]
        assert not [
            attributes for _, attributes in found.elements for key in attributes if key.startswith("on")
        ]
        assert all(
            (attributes["src"] or "").startswith("data:image/png;base64,")
            for tag, attributes in found.elements
            if tag == "img"
        )
        assert found.text.count("<script>alert(1)</script>") > 20, "shown as typed"
        assert "{{ 7*7 }}" in found.text


RAW = re.compile(r"(?<!\w)(nan|inf|infinity|none|null|undefined|Markup)(?![\w-])", re.IGNORECASE)


def raw_words(found: Seen) -> list[str]:
    """Python's or JSON's words for nothing, in text or in any attribute (an SVG coordinate, a width, a spoken label)."""
    text = re.sub(
        r"Radius.*?Share of the radius \S+ \S+ \S+ none", "", found.text
    )  # "none": a layer without a ball
    attributes = [
        str(value)
        for _, known in found.elements
        for key, value in known.items()
        if key not in ("class", "src") and value is not None
    ]
    return RAW.findall(text) + [
        word for value in attributes if "default-src" not in value for word in RAW.findall(value)
    ]


def test_the_check_for_raw_figures_sees_them():
    assert raw_words(Seen('<p>gap nan</p><svg aria-label="lower -Infinity"></svg>')) == ["nan", "Infinity"]


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), 10**400, "text", [], {}, [None], [[1]]]),
    st.floats(0, 1),
    st.sampled_from(["certified", "estimate", "void"]),
)
FIGURES = (
    "surrogate_loss",
    "robust_loss_lower_bound",
    "robust_loss_upper_bound",
    "gap",
    "certificate_status",
    "robust_accuracy",
    "width_factor",
    "parameter_radius",
    "seconds",
    "robust_accuracy_verified",
    "gaps",
    "drift",
    "per_class",
    "compatibility",
    "bounds_at_radii",
    "versions",
    "data",
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    summary=st.dictionaries(st.sampled_from(FIGURES), ANYTHING),
    rows=st.lists(
        st.dictionaries(
            st.sampled_from(
                ["epoch", "rounds", "online_loss", "lower_bound", "void", "clean_accuracy", "drift"]
            ),
            ANYTHING,
        ),
        max_size=4,
    ),
    radii=st.lists(st.tuples(ANYTHING, ANYTHING, st.sampled_from(["certified", "void", None])), max_size=4),
    drift=ANYTHING,
)
def test_whatever_figures_a_folder_holds_the_page_shows_none_raw(tmp_path, summary, rows, radii, drift):
    summary.setdefault("bounds_at_radii", [{"radius": r, "lower_bound": b, "status": s} for r, b, s in radii])
    summary.setdefault("drift", [{"layer": "a", "value": drift, "radius": 1.0}])
    write_summary(tmp_path, summary)
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert not raw_words(seen(tmp_path))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.43271, "0.4327"),
        (0.44, "0.4400"),
        (12.3456, "12.35"),
        (1234.5, "1234"),
        (9999.9, "10,000"),
        (1e7, "1.000e7"),
        (0.0, "0"),
        (0.00012345, "0.0001234"),
        (0.0000999, "<0.0001"),
        (-0.0000999, ">\N{MINUS SIGN}0.0001"),
        (-0.5, "\N{MINUS SIGN}0.5000"),
        (float("nan"), "not measured"),
        (float("inf"), "not measured"),
        (None, "not measured"),
    ],
)
def test_figures_have_four_significant_digits(value, text):
    assert formats.number(value) == text


# Pictures


def drawing(folder: Path, width: float) -> ElementTree.Element:
    run = read_run(folder)
    return ElementTree.fromstring(
        str(bracket_module.bracket(run, width, bracket_module.full_scale([run]), magnify=True))
    )


def extents(root: ElementTree.Element) -> list[tuple[str, float, float, float]]:
    """Each text with the horizontal stretch it takes and its height."""
    found = []
    for element in root.iter("{http://www.w3.org/2000/svg}text"):
        text, style = element.text or "", element.get("class") or ""
        size = svg.text_width(text, 17.0 if "figure" in style else 12.5 if "label" in style else 11.5)
        left = (
            float(element.get("x") or 0)
            - {"start": 0, "middle": size / 2, "end": size}[element.get("text-anchor") or "start"]
        )
        found.append((text, left, left + size, float(element.get("y") or 0)))
    return found


def check_labels(root: ElementTree.Element, width: float) -> None:
    """No text leaves the drawing, and no two on one line overlap."""
    placed = extents(root)
    for text, left, right, _ in placed:
        assert left >= -8, f"{text!r} leaves the drawing on the left"
        assert right <= width + 8, f"{text!r} leaves the drawing on the right"
    for i, (text, left, right, y) in enumerate(placed):
        for other, other_left, other_right, other_y in placed[i + 1 :]:
            assert y != other_y or right <= other_left or other_right <= left, (
                f"{text!r} and {other!r} overlap"
            )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    low=st.floats(0, 1),
    spread=st.sampled_from([0.0, 1e-9, 1e-4, 0.01, 0.3, 1.0]),
    share=st.floats(-0.2, 1.2),
    kind=st.sampled_from(["verified", "strongest attack"]),
)
@pytest.mark.parametrize("width", [bracket_module.WIDE, bracket_module.NARROW])
def test_the_labels_of_the_bracket_stay_inside_and_apart(tmp_path, width, low, spread, share, kind):
    write_summary(
        tmp_path,
        {
            "certificate_status": "certified",
            "robust_loss_lower_bound": low,
            "robust_loss_upper_bound": low + spread,
            "robust_loss_upper_kind": kind,
            "surrogate_loss": max(0.0, low + share * spread),
        },
    )
    check_labels(drawing(tmp_path, width), width)


def test_the_network_stands_between_the_ends_of_its_bracket(tmp_path):
    root = drawing(digits_run(tmp_path / "run"), 940.0)
    paths = {
        element.get("class"): element.get("d") for element in root.iter("{http://www.w3.org/2000/svg}path")
    }

    def across(style: str) -> list[float]:
        return [float(x) for x in re.findall(r"[ML]?([\d.]+) [\d.]+", paths[style] or "")]

    lower, upper = min(across("end lower")), max(across("end upper"))
    network = np.mean([min(across("network")), max(across("network"))])
    assert lower < network < upper
    assert (network - lower) / (upper - lower) == pytest.approx(
        (0.4327 - 0.3913) / (0.4391 - 0.3913), abs=1e-3
    )
    assert (
        root.get("aria-label")
        == "Number line of the robust loss: lower bound 0.3913, this network 0.4327, upper bound 0.4391."
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lower=st.floats(-1, 2), surrogate=st.floats(0, 2), upper=st.one_of(st.none(), st.floats(0, 2)))
def test_the_parts_of_the_loss_sum_to_the_whole(tmp_path, lower, surrogate, upper):
    write_summary(
        tmp_path,
        {
            "certificate_status": "certified",
            "robust_loss_lower_bound": lower,
            "surrogate_loss": surrogate,
            "gap": max(0.0, surrogate - lower),
            "robust_loss_upper_bound": upper,
        },
    )
    shares = loss_shares(read_run(tmp_path))
    assert all(0 <= share <= 1 for share in shares.values())
    assert bool(shares) == (lower > 1e-100), "nothing is divided where nothing is claimed"
    assert not shares or sum(shares.values()) == pytest.approx(1.0)


def test_png_holds_the_very_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(images.png(pixels))) as read:
        assert read.mode == "RGB"
        assert np.array_equal(np.asarray(read), pixels)


def test_the_colours_of_a_change_are_symmetric_about_nothing():
    colours = images.diverging(np.array([[[-0.3, 0.0, 0.3, 0.15]]]), 0.3)[0]
    assert tuple(colours[0]) == images.NEGATIVE
    assert tuple(colours[1]) == images.ZERO
    assert tuple(colours[2]) == images.POSITIVE
    assert np.allclose(colours[3], (np.array(images.ZERO) + np.array(images.POSITIVE)) / 2, atol=1)
    assert np.all(images.diverging(np.zeros((1, 2, 2)), 0.0) == images.ZERO)


@pytest.mark.parametrize(
    ("shape", "constant", "expected"),
    [
        ((4, 64), False, (4, 1, 8, 8)),
        ((4, 65), True, (4, 1, 8, 8)),
        ((4, 65), False, None),
        ((4, 784), False, (4, 1, 28, 28)),
        ((4, 3072), False, (4, 3, 32, 32)),
        ((4, 16), False, None),
        ((4, 1, 28, 28), False, (4, 1, 28, 28)),
        ((4, 3, 32, 32), False, (4, 3, 32, 32)),
        ((4, 9, 12), False, (4, 1, 9, 12)),
        ((4, 5, 6, 7), False, None),
        ((1, 65), True, None),
    ],
)
def test_what_counts_as_an_image(shape, constant, expected):
    x = np.random.default_rng(0).random(shape)
    if constant:
        x[..., -1] = 0.5
    found = images.as_images(x)
    assert (None if found is None else found.shape) == expected
    if found is not None:
        assert np.array_equal(found.reshape(len(x), -1), x.reshape(len(x), -1)[:, : found[0].size])


def test_the_gallery_shows_example_change_and_result(tmp_path):
    found = seen(digits_run(tmp_path / "run"))
    pictures = [attributes for tag, attributes in found.elements if tag == "img"]
    assert len(pictures) == 18
    assert [p["alt"] for p in pictures[3:6]] == [
        "Example of class three",
        "Change made by the attack, up to 0.1238",
        "The same example attacked, predicted eight",
    ]
    with Image.open(io.BytesIO(base64.b64decode((pictures[3]["src"] or "").split(",")[1]))) as read:
        assert read.size == (8, 8)
    assert "three → eight" in found.text
    assert "three holds" in found.text


def test_examples_that_are_no_images_become_bars(tmp_path):
    folder = digits_run(tmp_path / "run")
    x = np.random.default_rng(0).standard_normal((3, 10))
    save_file({"x": x, "attacked": x + 0.1, "label": np.array([0, 1, 7])}, folder / "gallery.safetensors")
    found = seen(folder)
    assert "drawn as bars (10 features)" in found.text
    assert "prediction not measured" in found.text
    assert sum(attributes.get("class") == "bars" for _, attributes in found.elements) == 9
    assert not [tag for tag, _ in found.elements if tag == "img"]


@pytest.mark.parametrize("damage", ["cut", "shapes", "keys", "pickle"])
def test_a_damaged_gallery_is_named_and_the_page_goes_on(tmp_path, damage):
    folder = digits_run(tmp_path / "run")
    path = folder / "gallery.safetensors"
    x, label = np.zeros((2, 3)), np.zeros(2, np.int64)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "shapes":
        save_file({"x": x, "attacked": np.zeros((2, 4)), "label": label}, path)
    elif damage == "keys":
        save_file({"x": x}, path)
    else:
        path.write_bytes(b"\x80\x04cos\nsystem\n")
    text = seen(folder).text
    assert (
        "gallery.safetensors is cut short" in text
        or "gallery.safetensors holds arrays that do not fit" in text
    )
    assert "between 0.3913 and 0.4391" in text


# The file


def test_the_page_needs_nothing_but_itself(tmp_path):
    found = seen(digits_run(tmp_path / "a"), ten_class_run(tmp_path / "b"))
    links = [
        (tag, key, value or "")
        for tag, known in found.elements
        for key, value in known.items()
        if key in ("src", "href", "srcset", "action", "data")
    ]
    assert all(value.startswith("data:") for tag, _, value in links if tag != "a")
    assert all(
        value.startswith(("https://arxiv.org/", "https://doi.org/")) for tag, _, value in links if tag == "a"
    )
    policy = [known["content"] for tag, known in found.elements if tag == "meta" and known.get("http-equiv")]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    html = page([read_run(tmp_path / "a")])
    assert "url(" not in html
    assert "@import" not in html


def test_every_picture_says_in_words_what_it_shows(tmp_path):
    for tag, known in seen(digits_run(tmp_path / "a"), ten_class_run(tmp_path / "b")).elements:
        if tag == "img":
            assert known.get("alt")
        if tag == "svg":
            assert known.get("aria-hidden") == "true" or (
                known.get("role") == "img" and known.get("aria-label")
            )


def test_a_long_run_with_a_large_gallery_stays_small(tmp_path):
    folder = ten_class_run(tmp_path / "run")
    rows = [
        {
            "epoch": i,
            "rounds": 100 * i,
            "online_loss": 1 / i,
            "lower_bound": 0.01,
            "drift": {f"layer{j}": i / (j + 1) for j in range(8)},
        }
        for i in range(1, 2001)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    x = np.random.default_rng(0).random((60, 3, 64, 64)).astype(np.float32)
    save_file({"x": x, "attacked": 1 - x, "label": np.zeros(60, np.int64)}, folder / "gallery.safetensors")
    out = write_report([folder], tmp_path / "report.html")
    assert out.stat().st_size < 2_000_000
    text = seen(folder).text
    assert "36 more in gallery.safetensors." in text
    assert "(2000, every 34 shown)" in text


def test_the_run_folder_is_only_read(tmp_path):
    folder = digits_run(tmp_path / "run")
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    write_report([folder], tmp_path / "elsewhere" / "page.html")
    assert before == {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_the_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    folder, out = digits_run(tmp_path / "run"), tmp_path / "report.html"
    assert write_report([folder], out) == out
    assert out.stat().st_mode & 0o044, "others may read a page"
    first = out.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    write_summary(folder, {"name": "second"})
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunFolderError, match="No space left on device"):
        write_report([folder], out)
    assert out.read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run"]


def test_a_run_folder_cut_short_is_refused_in_one_sentence(tmp_path):
    whole = digits_run(tmp_path / "whole")
    cut, listed, empty = tmp_path / "cut", tmp_path / "listed", tmp_path / "empty"
    for folder in (cut, listed, empty):
        folder.mkdir()
    (cut / "summary.json").write_bytes((whole / "summary.json").read_bytes()[:300])
    (listed / "summary.json").write_text("[1, 2]")
    for folder, names, remedy in (
        (cut, "summary.json", "train it again"),
        (listed, "summary.json", "train again"),
        (empty, "summary.json", "give the folder"),
        (tmp_path / "absent", "absent", "give the folder"),
    ):
        with pytest.raises(RunFolderError) as caught:
            write_report([whole, folder], tmp_path / "report.html")
        said = str(caught.value)
        assert str(folder) in said
        assert names in said
        assert remedy in said
        assert "\n" not in said
        assert said.endswith(".")
    assert not (tmp_path / "report.html").exists()


def test_places_that_cannot_be_written_are_refused(tmp_path):
    folder = digits_run(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"is a folder; name a file in it"):
        write_report([folder], folder)
    with pytest.raises(RunFolderError, match=r"choose another with --out"):
        write_report([folder], folder / "summary.json" / "report.html")
    with pytest.raises(InputError, match="at least one run folder"):
        write_report([], tmp_path / "report.html")


# Colours


def tokens(style: str) -> tuple[dict[str, str], dict[str, str]]:
    """The colour tokens of the light page and of the dark one."""
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-fA-F]{6})", block)) for block in blocks[:2])
    return light, light | dark


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_text_and_lines_stand_out_in_light_and_in_dark():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    style = (Path(images.__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
    for theme in tokens(style):
        for text in ("ink", "muted", "blue", "vermillion", "green", "amber", "red"):
            assert contrast(theme[text], theme["paper"]) >= 4.5, text
        for text, ground in (
            ("green", "green-soft"),
            ("amber", "amber-soft"),
            ("red", "red-soft"),
            ("muted", "raised"),
            ("ink", "amber-soft"),
            ("blue", "raised"),
        ):
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
        for line in ("purple", "sky", "grey"):
            assert contrast(theme[line], theme["paper"]) >= 3.0, line

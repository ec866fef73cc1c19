import re
import sys

import numpy as np
import pytest
from PIL import Image

from nst_jax.cli.look.charts import loss_curves
from nst_jax.cli.look.contact_sheet import _write, contact_sheet
from nst_jax.files.atomic import FileError


def plain(height, width, colour):
    return np.broadcast_to(np.asarray(colour, np.float32), (height, width, 3))


def find(sheet, colour):
    """(top, left, height, width) of a rectangle of one colour, which it must fill."""
    rows, columns = np.nonzero(np.abs(sheet - colour).max(-1) < 1e-5)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert len(rows) == height * width
    return rows.min(), columns.min(), height, width


def colours(count):
    return np.random.default_rng(0).uniform(0.1, 0.9, size=(count, 3)).astype(np.float32)


def sheet_of(count, content_shape=(48, 64), style_shapes=((30, 40),), **options):
    """A sheet of plain pictures, and the colours of its content, styles and outputs."""
    palette = colours(2 * count + 1)
    content, *others = palette
    styles = [
        plain(*style_shapes[i % len(style_shapes)], colour)
        for i, colour in enumerate(others[:count])
    ]
    outputs = [plain(*content_shape, colour) for colour in others[count:]]
    sheet = contact_sheet(plain(*content_shape, content), styles, outputs, **options)
    return sheet, content, others[:count], others[count:]


@pytest.mark.parametrize("count", [1, 2, 5, 12, 64])
def test_contact_sheet_holds_every_picture_whole(count):
    sheet, content, styles, outputs = sheet_of(count, cell=64)
    assert sheet.dtype == np.float32 and sheet.min() >= 0 and sheet.max() <= 1
    assert find(sheet, content)[2:] == (48, 64)
    for style, output in zip(styles, outputs, strict=True):
        top, left, height, width = find(sheet, style)
        assert height >= 16 and width / height == pytest.approx(4 / 3, abs=0.06)
        output_top, output_left, *output_size = find(sheet, output)
        assert output_size == [48, 64]
        # the style stands over its own output: same left edge, a little higher
        assert left == output_left
        assert height <= output_top - top <= height + 10


@pytest.mark.parametrize("shape", [(10, 200), (200, 10), (50, 50), (1, 1)])
def test_contact_sheet_keeps_the_aspect_of_a_style(shape):
    sheet, _, (style,), (output,) = sheet_of(1, style_shapes=[shape])
    top, _, height, width = find(sheet, style)
    # each side is rounded to a pixel
    assert abs(height * shape[1] - width * shape[0]) <= 0.5 * sum(shape)
    assert top + height <= find(sheet, output)[0]


@pytest.mark.parametrize("shape", [(300, 40), (40, 300)])
def test_contact_sheet_of_a_narrow_content(shape):
    sheet, content, _, outputs = sheet_of(3, content_shape=shape)
    for colour in (content, *outputs):
        *_, height, width = find(sheet, colour)
        assert max(height, width) == 320
        assert height / width == pytest.approx(shape[0] / shape[1], rel=0.02)


def test_contact_sheet_wraps_into_rows():
    def ratio(count):
        height, width, _ = sheet_of(count, cell=128)[0].shape
        return width / height

    assert all(1 < ratio(count) < 2.5 for count in (5, 12, 30))


def test_labels_are_drawn_and_long_ones_stay_in_their_place():
    bare, _, _, _ = sheet_of(3, content_label="", style_labels=["", "", ""])
    named, content, _, outputs = sheet_of(3, content_label="x", style_labels=["a", "b", "c"])
    assert named.shape == bare.shape and (named != bare).any()
    long, _, _, _ = sheet_of(3, content_label="W" * 300, style_labels=["W" * 300] * 3)
    changed = (long != bare).any(-1)
    assert changed.sum() > (named != bare).any(-1).sum()
    # no ink in the margins and gaps: columns left of and between the pictures
    covered = np.zeros(long.shape[1], bool)
    for colour in (content, *outputs):
        covered[find(long, colour)[1] :][:320] = True
    assert not changed[:, ~covered].any()


@pytest.mark.parametrize("label", ["Große Welle", "神奈川沖浪裏", "two\nlines", "é" * 99, "\0"])
def test_any_text_is_a_label(label):
    bare, *_ = sheet_of(1, style_labels=[""])
    sheet, *_ = sheet_of(1, style_labels=[label])
    assert sheet.shape == bare.shape and (sheet != bare).any()


def test_accents_are_dropped_rather_than_the_letter():
    plain_text, *_ = sheet_of(1, style_labels=["Creme brulee"])
    accents, *_ = sheet_of(1, style_labels=["Crème brûlée"])
    np.testing.assert_array_equal(accents, plain_text)


@pytest.fixture
def drawn(monkeypatch):
    """The rows of text that reach the drawing, in order: (text, whether it fits its place)."""
    found, write = [], _write

    def spy(sheet, text, font, top, left, width, grey):
        found.append((text, font.getlength(text) <= width))
        write(sheet, text, font, top, left, width, grey)

    monkeypatch.setattr("nst_jax.cli.look.contact_sheet._write", spy)
    return found


@pytest.mark.parametrize("shape", [(48, 64), (300, 40)])  # of wide cells and of narrow ones
def test_labels_of_two_swept_numbers_are_drawn_whole(drawn, shape):
    labels = [
        f"s1\ncontent_weight={content:g}\nstyle_weight={style:g}"
        for content in (1e-3, 1, 123.456)
        for style in (1, 1000)
    ]
    sheet_of(6, content_shape=shape, style_labels=labels, content_label="x")
    assert all(fits for _, fits in drawn)
    texts = [text for text, _ in drawn]
    starts = [index for index, text in enumerate(texts) if text in ("content", "style")]
    cards = [texts[a + 1 : b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    assert ["".join(card) for card in cards[1:]] == [label.replace("\n", "") for label in labels]
    if shape == (48, 64):
        assert cards[1] == ["s1", "content_weight=0.001", "style_weight=1"]
    else:
        assert cards[1][1:4] == ["content_", "weight=", "0.001"]  # broken at marks


def test_long_names_have_three_rows_and_then_lose_their_middle(drawn):
    names = ["the_great_wave_off_kanagawa_by_hokusai", "W" * 300]
    sheet_of(2, style_labels=names, content_label="x")
    texts = [text for text, fits in drawn if fits]
    assert texts[3:5] == ["the_great_wave_off_", "kanagawa_by_hokusai"]
    assert texts[6] == texts[7] == "W" * len(texts[6]) and len(texts) == 9
    assert texts[8].startswith("W") and "…" in texts[8]


def test_contact_sheet_does_not_quantise():
    value = np.float32(0.3 + 1e-3)  # between two of 256 levels
    sheet = contact_sheet(plain(8, 8, value), [plain(8, 8, 0.0)], [plain(8, 8, 1.0)], cell=64)
    assert (np.abs(sheet - value) < 1e-6).all(-1).sum() == 64 * 64


IMAGE = plain(8, 8, 0.5)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "line"),
    [
        (
            (IMAGE[..., 0], [IMAGE], [IMAGE]),
            {},
            ValueError,
            r"content must have shape \[H, W, 3",
        ),
        (
            (IMAGE, [IMAGE[None]], [IMAGE]),
            {},
            ValueError,
            r"styles\[0\] must .* \[1, 8, 8, 3\]",
        ),
        ((IMAGE, [IMAGE], [IMAGE[:0]]), {}, ValueError, r"outputs\[0\] must .* \[0, 8, 3\]"),
        (
            (np.zeros((8, 8, 3), int), [IMAGE], [IMAGE]),
            {},
            TypeError,
            "content must be floating",
        ),
        ((IMAGE, [], []), {}, ValueError, "styles must hold at least 1 image, got none"),
        ((IMAGE, [IMAGE], [IMAGE] * 2), {}, ValueError, "outputs must hold 1 images.*, got 2"),
        (
            (IMAGE, [IMAGE], [IMAGE]),
            {"style_labels": ["a", "b"]},
            ValueError,
            "style_labels must hold 1 labels, got 2",
        ),
        ((IMAGE, [IMAGE], [IMAGE]), {"cell": 63}, ValueError, "cell must be at least 64.*63"),
    ],
)
def test_contact_sheet_refuses(arguments, options, error, line):
    with pytest.raises(error, match=line):
        contact_sheet(*arguments, **options)


def history_of(steps, count, total_variation=0.0):
    step = np.arange(1, steps + 1)[:, None]
    style = 1e4 * np.arange(1, count + 1) / step
    content = 10.0 * (step - 1) + 0 * style  # zero at first
    smooth = np.full_like(style, total_variation)
    return {
        "total": style + content + smooth,
        "content": content,
        "style": style,
        "tv": smooth,
    }


def texts_of(path):
    """The texts of an SVG figure, which matplotlib repeats as comments beside their glyphs."""
    return re.findall("<!-- (.*?) -->", path.read_text())


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (3, 2), (50, 3), (20, 5)])
def test_loss_curves_writes_a_picture(tmp_path, steps, count):
    path = tmp_path / "loss_curves.png"
    labels = [f"style {i}" for i in range(count)]
    loss_curves(path, history_of(steps, count), labels, title="A title")
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 250
        assert np.asarray(image.convert("L")).std() > 5
    assert [p.name for p in tmp_path.iterdir()] == ["loss_curves.png"]


def test_terms_that_are_zero_are_left_out(tmp_path):
    path = tmp_path / "a.svg"
    loss_curves(path, history_of(9, 1, total_variation=3.0), ["a"])
    assert {"total", "content", "style", "tv"} < set(texts_of(path))
    loss_curves(path, history_of(9, 1, total_variation=0.0), ["a"])
    assert "content" in texts_of(path) and "tv" not in texts_of(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, -1.0])
@pytest.mark.parametrize("all_of_it", [False, True])
def test_values_without_a_logarithm_leave_a_gap(tmp_path, bad, all_of_it):
    history = history_of(10, 2)
    for values in history.values():
        values[0 if all_of_it else 5 :, 0 if not all_of_it else slice(None)] = bad
    loss_curves(tmp_path / "a.png", history, ["a", "b"])
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image.convert("L")).std() > 1


def test_labels_are_not_read_as_formulas(tmp_path):
    loss_curves(tmp_path / "a.svg", history_of(3, 2), [r"$\frac$", "_b"], title="$x^$")
    assert {r"$\frac$", "_b", "$x^$"} < set(texts_of(tmp_path / "a.svg"))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "loss_curves.png"
    path.write_bytes(b"old")

    def fail(self, name, **options):
        name.write(b"half a pict")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(FileError, match="loss_curves.png: cannot be written: disk full"):
        loss_curves(path, history_of(3, 1), ["a"])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_global_state_of_pyplot(tmp_path):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    loss_curves(tmp_path / "a.png", history_of(3, 1), ["a"])
    assert plt.get_fignums() == before


def test_without_matplotlib_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    line = r"loss_curves.png needs matplotlib: pip install matplotlib$"
    with pytest.raises(ImportError, match=line):
        loss_curves(tmp_path / "loss_curves.png", history_of(3, 1), ["a"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("history", "labels", "line"),
    [
        ({"style": np.ones((3, 1))}, ["a"], r"history must have a \"total\", got \['style'\]"),
        (
            {"total": np.ones(3)},
            ["a"],
            r"history\['total'\] must have shape \[steps, N\].*\[3\]",
        ),
        ({"total": np.ones((0, 1))}, ["a"], r"history\['total'\] must .* got \[0, 1\]"),
        (
            {"total": np.ones((3, 1)), "style": np.ones((2, 1))},
            ["a"],
            r"history\['style'\] must .* \[3, 1\], got \[2, 1\]",
        ),
        ({"total": np.ones((3, 2))}, ["a"], "labels must hold 2 labels, got 1"),
    ],
)
def test_loss_curves_refuses(tmp_path, history, labels, line):
    with pytest.raises(ValueError, match=line):
        loss_curves(tmp_path / "a.png", history, labels)
    assert not list(tmp_path.iterdir())

"""Data sets of listed pairs, and in other formats: nothing here is computed by the network."""

import json

import numpy as np
import pytest
from commandline import FAST
from PIL import Image

from nst_jax.cli import run as cli_run
from nst_jax.cli.dataset.pairs import Pair, read_pairs
from nst_jax.cli.dataset.run import BAD_FILES
from nst_jax.cli.main import BAD_INPUT
from nst_jax.coarse_to_fine import Result, fit_shape


@pytest.fixture
def folder(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists" / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png", "s.png", "t.png"):
        pixels = rng.integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "lists" / name)
    return tmp_path


@pytest.fixture
def painted(monkeypatch):
    """The pictures of each call of `stylize`: its contents, resized and half as bright."""
    found = []

    def stylize(params, contents, styles, config, **options):
        height, width = fit_shape(contents[0].shape, config)
        images = np.stack([0.5 * np.asarray(content)[:height, :width] for content in contents])
        found.append(images)
        count = len(images)
        return Result(
            images, {"total": np.ones((1, count))}, np.zeros(count, bool), np.zeros(count, int),
            np.ones(count, int), np.ones(count), None,
        )  # fmt: skip

    monkeypatch.setattr(cli_run, "stylize", stylize)
    return found


def write(folder, *lines):
    path = folder / "lists" / "pairs.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def start(run, *arguments):
    return run(*FAST, "--mesh=style:1", *arguments)


def test_a_list_is_read_in_its_order(folder):
    path = write(
        folder, "content, style,output", "a.png,s.png,", 'deep/b.png,t.png,"x/one, two"',
        "", "a.png, s.png,", "a.png,gs://bucket/s.png,last.PNG",
    )  # fmt: skip
    contents, styles, pairs = read_pairs(str(path), suffix=".png")
    lists = str(folder / "lists")
    assert [source.path for source in contents] == [f"{lists}/a.png", f"{lists}/deep/b.png"]
    assert [source.name for source in styles] == ["s", "t", "s"]
    assert pairs == [
        Pair(f"{lists}/a.png", f"{lists}/s.png", "a__s.png"),
        Pair(f"{lists}/deep/b.png", f"{lists}/t.png", "x/one, two.png"),
        Pair(f"{lists}/a.png", f"{lists}/s.png", "a__s_2.png"),
        Pair(f"{lists}/a.png", "gs://bucket/s.png", "last.PNG"),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["photo,style", "a.png,s.png"], "the first line of {} must be content,style or content"),
        ([""], "the first line of {} must be content,style or content,style,output, got ''"),
        (["content,style"], "{} must hold a pair, got none"),
        (["content,style", "a.png"], "line 2 of {} must be content,style, got 'a.png'"),
        (["content,style", "a.png,s.png", "a.png,"], "line 3 of {} must be content,style, got"),
        (["content,style,output", "a,s,/x"], "line 2 of {}: the output must be below the output"),
        (["content,style,output", "a,s,../x"], "line 2 of {}: the output must be below the out"),
        (["content,style,output", "a,s,x.jpg"], "line 2 of {}: the output must end in .png or in"),
        (["content,style,output", "a,s,x", "b,s,x.png"], "lines 2 and 3 of {} have one output, x."),
    ],
)
def test_what_is_no_list_of_pairs_is_one_line(run, folder, lines, message):
    path = write(folder, *lines)
    code, err = start(run, f"--pairs={path}")
    assert code == BAD_INPUT
    assert err.startswith(f"nst-jax: --pairs: {message.format(path)}") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--content=a.png",), "--pairs names the contents and styles: leave out --content"),
        (("--pairing=all",), "--pairs names the contents and styles: leave out --pairing"),
        (("--regions=map.png",), "--regions cannot be combined with --pairing, --pairs, folders"),
        (("--quality=90",), "--quality needs --format=jpg or webp, got png"),
        (("--quality=101", "--format=jpg"), "--quality must be from 1 to 100, got 101"),
        (("--format=gif",), "--format must be one of png, png16, jpg, webp, tiff, got 'gif'"),
        (("--pairs=missing.csv",), "missing.csv"),
    ],
)
def test_flags_that_do_not_go_with_it(run, folder, arguments, message):
    write(folder, "content,style", "a.png,s.png")
    code, err = start(run, "--pairs=lists/pairs.csv", *arguments)
    assert code == BAD_INPUT and message in err and err.count("\n") == 1, err


def test_listed_pairs_are_painted_and_more_may_be_added(run, folder, painted):
    lines = ["content,style,output", "a.png,s.png,first", "deep/b.png,none.png,"]
    write(folder, *lines)
    code, err = start(run, "--pairs=lists/pairs.csv", "--batch_size=1")
    assert code == BAD_FILES and "1 bad files were skipped and 1 pictures not made" in err
    assert (folder / "out" / "first.png").exists() and len(painted) == 1
    write(folder, *lines, "deep/b.png,t.png,")
    code, err = start(run, "--pairs=lists/pairs.csv", "--batch_size=1")
    assert code == BAD_FILES and len(painted) == 2
    made = [json.loads(line) for line in (folder / "out" / "manifest.jsonl").open()]
    assert [line["output"] for line in made if "output" in line] == ["first.png", "b__t.png"]


@pytest.mark.parametrize(
    ("kind", "suffix", "loss"),
    [("jpg", ".jpg", 40), ("webp", ".webp", 0), ("png16", ".png", 0), ("tiff", ".tiff", 0)],
)
def test_a_data_set_in_another_format(run, folder, painted, kind, suffix, loss):
    arguments = ("--content=lists/a.png", "--styles=lists/s.png", "--pairing=all")
    code, err = start(run, *arguments, f"--format={kind}")
    assert code == 0, err
    with Image.open(folder / "out" / f"a__s{suffix}") as picture:
        found = np.asarray(picture.convert("RGB"), float)
        if kind == "jpg":
            tables = picture.quantization
    (images,) = painted
    # Pillow reads only the upper 8 of 16 bits.
    assert np.abs(found - 255 * images[0]).max() <= (1.01 if "16" in kind or loss == 0 else loss)
    if kind == "jpg":
        quality95 = Image.new("RGB", (8, 8))
        quality95.save(folder / "95.jpg", quality=95)
        with Image.open(folder / "95.jpg") as reference:
            assert tables == reference.quantization
    code, err = start(run, *arguments)
    if suffix == ".png":  # It goes on only in the same format.
        assert code == BAD_INPUT and "belongs to a run that differs in format" in err
    else:  # The pictures have other names, so they are another job in the folder.
        assert code == 0 and (folder / "out" / "a__s.png").exists(), err


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_a_lower_quality_gives_smaller_files(run, folder, painted, kind):
    sizes = []
    for quality in ((), ("--quality=50",), ("--quality=10",)):
        out = f"{kind}{len(sizes)}"
        code, err = start(
            run, "--content=lists/a.png", "--styles=lists/s.png", "--pairing=all",
            f"--format={kind}", f"--output_dir={out}", *quality,
        )  # fmt: skip
        assert code == 0, err
        sizes.append((folder / out / f"a__s.{kind}").stat().st_size)
    assert sizes[0] > 1.1 * sizes[1] and sizes[1] > 1.1 * sizes[2], sizes


def test_a_picture_too_long_for_the_format_is_a_bad_file(run, folder, painted, monkeypatch):
    Image.new("RGB", (400, 20)).save("long.png")
    arguments = ("--styles=lists/s.png", "--pairing=all", "--format=webp", "--size=17000")
    code, err = start(run, "--content=long.png", *arguments)
    assert code == BAD_INPUT and not painted
    assert "long.png: a webp has at most 16383 pixels a side, got 17000" in err


def test_random_pairs_drawn_again_keep_the_format(run, folder, painted):
    (folder / "lists" / "s.png").write_text("no picture")
    code, err = start(
        run, "--content=lists/a.png,lists/deep/b.png", "--styles=lists/s.png,lists/t.png",
        "--pairing=random", "--format=jpg",
    )  # fmt: skip
    assert code == BAD_FILES, err
    assert sorted(path.name for path in (folder / "out").glob("*.jpg")) == ["a__t.jpg", "b__t.jpg"]

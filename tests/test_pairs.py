"""Which pictures a data-set job makes: nothing here compiles or decodes."""

import collections
import itertools
import math

import pytest

from nst_jax import sharding
from nst_jax.cli.dataset.pairs import Pair, Source, draw_again, expand, names_several, pair, plan
from nst_jax.files import images


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Empty files: only their names matter here."""
    monkeypatch.chdir(tmp_path)
    names = ("in/b.png", "in/a.JPG", "in/notes.txt", "in/.hidden.png", "in/deep/er/c.webp")
    for name in (*names, "in/deep/d.tiff", "in/out/done.png", "in/x[1].png", "style.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(items, output_dir="elsewhere", made=()):
    found = expand(items, flag="--content", output_dir=output_dir, made=made)
    return [source.name for source in found]


def test_a_folder_is_its_pictures_and_those_of_its_folders(folder):
    found = ["a", "b", "deep/d", "deep/er/c", "out/done", "x[1]"]
    assert names(["in"]) == names(["in/"]) == found
    assert names([str(folder / "in")]) == found
    assert names(["in"], output_dir="in/out", made=["other.png", "done"]) == found
    kept = [name for name in found if name != "out/done"]
    assert names(["in"], output_dir="in/out", made=["done.png"]) == kept
    assert names(["in"], output_dir="in", made=["out"]) == kept
    paths = [source.path for source in expand(["in"], flag="", output_dir="o")]
    assert paths[:2] == ["in/a.JPG", "in/b.png"]


def test_patterns_name_what_lies_below_their_fixed_part(folder):
    assert names(["in/*"]) == ["a", "b", "x[1]"]
    assert names(["in/**/d.*"]) == ["deep/d"]
    assert names(["in/**/*.webp"]) == ["deep/er/c"]
    assert names(["in/deep/e?/*"]) == ["er/c"]
    assert names(["*/b.*"]) == ["in/b"]
    assert names(["in/[ab].*"]) == ["a", "b"]


def test_links_are_followed_but_to_no_folder_twice(folder):
    """One to a folder around it would else be followed forty times, and two of them forever."""
    (folder / "shared").mkdir()
    (folder / "shared" / "e.png").touch()
    (folder / "in" / "b2.png").symlink_to(folder / "in" / "b.png")
    (folder / "in" / "deep" / "linked").symlink_to(folder / "shared")
    found = ["a", "b", "b2", "deep/d", "deep/er/c", "deep/linked/e", "out/done", "x[1]"]
    assert names(["in"]) == found
    for name in ("in/loop", "in/deep/loop", "in/deep/er/loop"):
        (folder / name).symlink_to(folder / "in")
    assert names(["in"]) == names(["in/**/*"]) == names(["in/**"]) == found
    assert names(["in/**/deep/**/[c-e].*"]) == ["deep/d", "deep/er/c", "deep/linked/e"]
    assert names(["**/e.png"]) == ["in/deep/linked/e"]


def test_a_link_that_leads_nowhere_is_left_to_whoever_reads_it(folder):
    (folder / "in" / "gone.png").symlink_to(folder / "nowhere.png")
    assert names(["in/*"]) == ["a", "b", "gone", "x[1]"] and "gone" in names(["in"])


def test_items_are_taken_in_turn_and_files_once_whatever_their_suffix(folder):
    assert names(["style.png", "in/*", "in/b.png", "in/notes.txt"]) == [
        *("style", "a", "b", "x[1]", "notes"),
    ]
    assert names(["in/x[1].png"]) == ["x[1]"]  # a file of that name is no pattern
    assert names(["missing.png"]) == ["missing"]  # for whoever reads it to say


@pytest.mark.parametrize(("item", "where"), [("in/*.gif", "like"), ("empty", "in the folder")])
def test_what_names_nothing_is_refused(folder, item, where):
    (folder / "empty").mkdir()
    with pytest.raises(ValueError) as caught:
        names(["style.png", item])
    assert str(caught.value) == f"--content: there are no pictures {where} {item!r}"


def test_files_that_are_passed_over_are_counted(folder, capsys):
    for name in ("e.HEIC", "f.HEIC", "g.psd", "Makefile", "deep/h.tga", ".hidden.psd", "out/i.txt"):
        (folder / "in" / name).touch()
    with pytest.MonkeyPatch.context() as patch:
        # As if pillow-heif were not installed.
        patch.setattr(images, "suffixes", lambda: frozenset({".png", ".jpg", ".webp", ".tiff"}))
        assert names(["in"], output_dir="in/out") == [
            "a",
            "b",
            "deep/d",
            "deep/er/c",
            "out/done",
            "x[1]",
        ]
        assert capsys.readouterr().err == (
            "nst-jax: --content: passed over 7 files that cannot be read (2 .HEIC, 2 .txt, 1 "
            "without a suffix, 1 .psd, 1 .tga; HEIC pictures need pillow-heif: pip install "
            "pillow-heif) in the folder 'in'\n"
        )
        names(["in/b*"])
        assert capsys.readouterr().err == ""
        with pytest.raises(
            ValueError, match=r"like 'in/\*.psd', only 1 file that cannot be read \(1"
        ):
            names(["in/*.psd"])


def test_folders_and_patterns_make_a_data_set(folder):
    assert names_several(["style.png", "in"]) and names_several(["in/*"])
    assert not names_several(["style.png", "missing.png", "in/x[1].png"])


def sources(*names):
    return [Source(f"{name}.jpg", name) for name in names]


def test_all_pairs_every_content_with_every_style():
    found = pair(sources("a", "d/b"), sources("s", "e/t"), pairing="all")
    assert [tuple(one) for one in found] == [
        ("a.jpg", "s.jpg", "a__s.png"),
        ("a.jpg", "e/t.jpg", "a__t.png"),
        ("d/b.jpg", "s.jpg", "d/b__s.png"),
        ("d/b.jpg", "e/t.jpg", "d/b__t.png"),
    ]


def test_zip_pairs_in_order_and_only_equal_lengths():
    found = pair(sources("a", "b"), sources("s", "t"), pairing="zip")
    assert [one.output for one in found] == ["a__s.png", "b__t.png"]
    with pytest.raises(ValueError, match="zip needs as many contents as styles, got 2 and 1"):
        pair(sources("a", "b"), sources("s"), pairing="zip")


def test_no_output_takes_the_name_of_another():
    contents = [Source("a.jpg", "a"), Source("a.png", "a"), Source("x" * 300, "d/" + "x" * 300)]
    styles = [Source("1/s.jpg", "1/s"), Source("2/s.jpg", "2/s")]
    outputs = [one.output for one in pair(contents, styles, pairing="all")]
    assert outputs[:4] == ["a__s.png", "a__s_2.png", "a__s_3.png", "a__s_4.png"]
    assert len(set(outputs)) == 6 and max(map(len, outputs)) < 220


def test_random_draws_one_style_each_evenly_and_the_same_again():
    contents = sources(*(f"n{n:03}/{n}" for n in range(600)))
    styles = sources("s", "t", "u")
    first = pair(contents, styles, pairing="random", seed=1)
    assert [one.content for one in first] == [content.path for content in contents]
    assert first == pair(contents, styles, pairing="random", seed=1)
    counts = collections.Counter(one.style for one in first)
    # 600 fair draws of three: 200 each, standard deviation 11.5.
    assert all(abs(counts[style.path] - 200) < 60 for style in styles)
    other = pair(contents, styles, pairing="random", seed=2)
    same = sum(a.style == b.style for a, b in zip(first, other, strict=True))
    assert abs(same - 200) < 60
    # A content keeps its style, whatever else there is.
    assert pair(contents[::7], styles, pairing="random", seed=1) == first[::7]


def test_a_style_that_cannot_be_read_is_drawn_again_evenly_and_the_same_again():
    contents, styles = sources(*(f"n{n:03}/{n}" for n in range(600))), sources("s", "t", "u", "v")
    first = pair(contents, styles, pairing="random", seed=1)
    bad = {"s.jpg", "n003/3.jpg"}
    again = draw_again(first, contents, styles, seed=1, bad=bad)
    assert again == draw_again(first, contents, styles, seed=1, bad=bad)
    assert [one.content for one in again] == [one.content for one in first]
    moved = [(a, b) for a, b in zip(first, again, strict=True) if a != b]
    # Nothing else moves, and a content that cannot be read needs no style.
    stays = [one for one in first if one.style != "s.jpg" or one.content in bad]
    assert len(moved) == 600 - len(stays) and set(stays) <= set(again)
    counts = collections.Counter(b.style for _, b in moved)
    # About 150 fair draws of three: 50 each, standard deviation 5.8.
    assert counts.keys() == {"t.jpg", "u.jpg", "v.jpg"} and min(counts.values()) > 30
    assert all(b.output == a.output.replace("__s.", f"__{b.style[0]}.") for a, b in moved)
    # What another bad style displaces leaves the rest as it is.
    later = draw_again(again, contents, styles, seed=1, bad={*bad, "t.jpg"})
    whole = draw_again(first, contents, styles, seed=1, bad={*bad, "t.jpg"})
    assert {one.style for one in later if one.content not in bad} == {"u.jpg", "v.jpg"}
    assert later == whole
    # A finished pair stays, and so do all if there is nothing to draw.
    kept = draw_again(first, contents, styles, seed=1, bad=bad, finished=lambda one: True)
    assert (
        kept
        == first
        == draw_again(first, contents, styles, seed=1, bad={style.path for style in styles})
    )


def test_a_style_drawn_again_takes_no_name_of_another():
    contents = [Source("a.jpg", "a"), Source("a.png", "a")]
    styles = sources("s", "t")
    pairs = [Pair("a.jpg", "s.jpg", "a__s.png"), Pair("a.png", "t.jpg", "a__t.png")]
    again = draw_again(pairs, contents, styles, seed=0, bad={"s.jpg"})
    assert again == [Pair("a.jpg", "t.jpg", "a__t_2.png"), pairs[1]]


def batches_of(counts, **options):
    """Pairs with as many contents of each shape as `counts` says, in turn, and their batches."""
    numbered = [(n, shape) for shape, count in counts.items() for n in range(count)]
    shapes = {f"{shape}-{n}": shape for n, shape in sorted(numbered)}
    pairs = pair([Source(path, path) for path in shapes], sources("s"), pairing="all")
    return pairs, plan(pairs, shapes, **options)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 8])
@pytest.mark.parametrize("devices", [1, 4])
def test_batches_hold_every_pair_once_and_one_shape_each(batch_size, devices):
    counts = {(30, 40): 9, (40, 30): 1, (40, 40): 17, (20, 40): 4}
    pairs, batches = batches_of(counts, batch_size=batch_size, devices=devices)
    assert sorted(itertools.chain(*(batch.pairs for batch in batches))) == sorted(pairs)
    for shape, count in counts.items():
        own = [batch for batch in batches if batch.shape == shape]
        assert all(one.content.startswith(f"{shape}-") for b in own for one in b.pairs)
        (size,) = {batch.size for batch in own}  # so that a shape compiles once
        assert all(0 < len(batch.pairs) <= size <= batch_size for batch in own)
        assert all(len(batch.pairs) == size for batch in own[:-1])
        if devices == 1:
            assert len(own) == math.ceil(count / batch_size)
            assert len(own) * size - count < len(own)  # places left over
        elif size > devices:
            assert size % devices == 0


def test_a_batch_is_filled_across_contents_and_styles():
    shapes = dict.fromkeys(("a.jpg", "b.jpg", "c.jpg"), (36, 48))
    pairs = pair(sources("a", "b", "c"), sources("s", "t"), pairing="all")
    first, second = plan(pairs, shapes, batch_size=4)
    assert [one.output for one in first.pairs] == ["a__s.png", "a__t.png", "b__s.png"]
    assert [one.output for one in second.pairs] == ["b__t.png", "c__s.png", "c__t.png"]


@pytest.mark.parametrize("count", [0, 1, 7, 24])
@pytest.mark.parametrize("processes", [1, 2, 5])
def test_processes_share_all_of_it_and_none_twice(count, processes):
    shares = [
        list(sharding.share_of_process(count, process=process, processes=processes))
        for process in range(processes)
    ]
    assert sum(shares, []) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1

import json

import pytest

from nst_jax.cli.dataset.manifest import Manifest, check_settings
from nst_jax.cli.dataset.pairs import Pair

PAIRS = [Pair(f"{name}.jpg", "s.jpg", f"{name}__s.png") for name in "abc"]


def line(pair, **more):
    return {**pair._asdict(), "loss": 1.0, "seconds": 0.1, "diverged": False, **more}


def test_what_is_written_is_found_again(tmp_path):
    manifest = Manifest(tmp_path)
    assert not manifest.finished and not manifest.bad and not list(tmp_path.iterdir())
    manifest.write([line(PAIRS[0]), line(PAIRS[1], diverged=True)])
    manifest.write([{"path": "c.jpg", "error": "c.jpg: broken"}])
    again = Manifest(tmp_path)
    for one in (manifest, again):
        assert one.finished == {PAIRS[0]: False, PAIRS[1]: True}
        assert one.bad == {("c.jpg", "c.jpg: broken")}


@pytest.mark.parametrize("cut", [1, 20, 70])
def test_a_line_cut_off_is_written_anew(tmp_path, cut):
    Manifest(tmp_path).write([line(PAIRS[0]), line(PAIRS[1])])
    path = tmp_path / "manifest.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    manifest = Manifest(tmp_path)
    assert set(manifest.finished) == {PAIRS[0]}
    manifest.write([line(PAIRS[1])])
    assert path.read_bytes() == whole


def test_each_process_writes_its_own_and_reads_all(tmp_path):
    manifests = [Manifest(tmp_path, process=process) for process in range(3)]
    for manifest, pair in zip(manifests, PAIRS, strict=True):
        manifest.write([line(pair)])
    names = ["manifest-1.jsonl", "manifest-2.jsonl", "manifest.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert set(Manifest(tmp_path, process=1).finished) == set(PAIRS)
    assert set(manifests[1].finished) == {PAIRS[1]}


@pytest.mark.parametrize("text", ["no JSON\n", "{}\n", '["list"]\n', "[" * 10**5 + "\n"])
def test_a_file_that_is_no_manifest_is_refused(tmp_path, text):
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps(line(PAIRS[0])) + "\n" + text)
    with pytest.raises(ValueError, match=r"manifest\.jsonl: line 2 is not a line of a manifest"):
        Manifest(tmp_path)


def test_settings_that_change_the_pictures_are_refused_by_name(tmp_path):
    path = tmp_path / "config.json"
    config = {"steps": 2, "layers": ("a", "b"), "remat": False}
    settings = {"seed": 0, "mesh": None, "config": config}
    check_settings(path, settings)
    path.write_text(json.dumps(settings))
    check_settings(path, settings)
    check_settings(path, settings | {"mesh": {"style": 2}, "device": "other"})
    check_settings(path, settings | {"tile": 512, "config": config | {"remat": True}})
    with pytest.raises(ValueError) as caught:
        check_settings(path, {"config": {"steps": 3, "layers": ("a",)}, "pairing": "zip"})
    assert str(caught.value) == (
        f"{path} belongs to a run that differs in pairing (None there, zip now), steps (2 there, 3 "
        "now), layers (['a', 'b'] there, ['a'] now) and 1 more; use another --output_dir"
    )
    for text in ('{"seed"', "[" * 10**5, "[1]"):
        path.write_text(text)
        with pytest.raises(ValueError) as caught:
            check_settings(path, settings)
        assert str(caught.value) == f"{path} is not a record of settings"

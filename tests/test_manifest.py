import json

import pytest

from nst_jax.cli.dataset.manifest import Manifest, check_others, find_job
from nst_jax.cli.dataset.pairs import Pair
from nst_jax.cli.shared_folder import numbered

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


CONFIG = {"steps": 2, "layers": ("a", "b"), "remat": False}
SETTINGS = {"seed": 0, "mesh": None, "config": CONFIG}
OTHERS = {"config": {"steps": 3, "layers": ("a",)}, "pairing": "zip"}


def test_a_job_is_found_by_the_settings_that_change_its_pictures(tmp_path):
    assert find_job(tmp_path, SETTINGS) is None
    (tmp_path / "config_2.json").write_text(json.dumps(SETTINGS))
    for same in (
        SETTINGS,
        SETTINGS | {"mesh": {"style": 2}, "device": "other"},
        SETTINGS | {"tile": 512, "config": CONFIG | {"remat": True}},
    ):
        assert find_job(tmp_path, same) == 2
    (tmp_path / "config.json").write_text(json.dumps({"pictures": ["a.png"]}))  # of another kind
    assert find_job(tmp_path, SETTINGS) == 2 and find_job(tmp_path, OTHERS) is None
    (tmp_path / "config_10.json").write_text(json.dumps(OTHERS))
    (tmp_path / "config-3.json").write_text("foreign")
    (tmp_path / "config_x.json").write_text("foreign")
    assert find_job(tmp_path, OTHERS) == 10


@pytest.mark.parametrize("number", [1, 2])
def test_pictures_of_a_job_with_other_settings_are_refused_by_their_names(tmp_path, number):
    path = tmp_path / numbered("config.json", number)
    path.write_text(json.dumps(SETTINGS))
    outputs = {pair.output for pair in PAIRS}
    check_others(tmp_path, OTHERS, outputs)  # nothing is painted yet
    Manifest(tmp_path, process=3, number=number).write([line(PAIRS[2])])
    check_others(tmp_path, SETTINGS, outputs)
    check_others(tmp_path, OTHERS, {PAIRS[0].output})
    with pytest.raises(ValueError) as caught:
        check_others(tmp_path, OTHERS, outputs)
    assert str(caught.value) == (
        f"{path} belongs to a run that differs in pairing (None there, zip now), steps (2 there, 3 "
        "now), layers (['a', 'b'] there, ['a'] now) and 1 more; use another --output_dir"
    )


@pytest.mark.parametrize("text", ['{"seed"', "[" * 10**5, "[1]"])
def test_what_is_no_record_of_settings_is_told(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        find_job(tmp_path, SETTINGS)
    assert str(caught.value) == f"{path} is not a record of settings"


def test_manifests_of_several_jobs_are_kept_apart(tmp_path):
    for number, pair in enumerate(PAIRS, start=1):
        for process in (0, 1):
            manifest = Manifest(tmp_path, process=process, number=number)
            assert set(manifest.finished) == ({pair} if process else set())
            manifest.write([line(pair)] * 4)
            manifest.close()
    names = [f"manifest{n}{p}.jsonl" for n in ("", "_2", "_3") for p in ("", "-1")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)

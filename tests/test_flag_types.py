"""Paths and lists as flags take them, from the text on the command line to the value."""

import pathlib
import re

import pytest
from absl import flags
from absl.testing import flagsaver

from nst_jax.cli import flag_types
from nst_jax.cli.flags import ADDRESSES, FLAGS, config_from_flags
from nst_jax.cli.help import _VALUES
from nst_jax.cli.main import BAD_INPUT, _parse

ROOT = pathlib.Path(__file__).parents[1]
LISTS = ("content", "styles", "masks", "style_masks")
PATHS = ("output_dir", "weights", "init", "show_config")
PATHS += ("checkpoint_dir", "tensorboard_dir", "profile_dir", "pairs", "regions")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder, and an empty current folder below it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.fixture
def value():
    """The value of a flag: `value("styles", "--styles=a,b")`."""

    def value(name, *arguments):
        with flagsaver.flagsaver():
            _parse(["nst-jax", *arguments])
            return FLAGS[name].value

    return value


@pytest.fixture
def refused(capsys):
    """What the command says about a flag that it refuses."""

    def refused(*arguments):
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
            _parse(["nst-jax", *arguments])
        assert ended.value.code == BAD_INPUT
        err = capsys.readouterr().err
        assert err.startswith("nst-jax: ") and err.endswith("\n") and err.count("\n") == 1
        return err[len("nst-jax: ") : -1]

    return refused


def test_every_flag_of_files_is_here():
    shown = {name for name, kind in _VALUES.items() if kind in ("FILES", "FILE", "FOLDER")}
    assert shown - {"flagfile"} | {"init"} == {*LISTS, *PATHS}  # absl expands --flagfile itself


@pytest.mark.parametrize("name", PATHS)
def test_a_tilde_is_the_home_folder(home, value, name):
    assert value(name, f"--{name}=~/a.b") == f"{home}/a.b"
    assert value(name, f"--{name}=~") == str(home)
    assert value(name, f"--{name}=b/~") == "b/~"
    assert value(name, f"--{name}=./~") == "./~"


@pytest.mark.parametrize("name", LISTS)
def test_a_tilde_is_the_home_folder_in_every_item(home, value, name):
    found = value(name, f'--{name}=~/a.jpg, ~/b c.jpg,x~,"~/d,e.jpg"')
    assert found == [f"{home}/a.jpg", f"{home}/b c.jpg", "x~", f"{home}/d,e.jpg"]


def test_a_tilde_with_a_name_is_another_users_home(monkeypatch, value, refused):
    pwd = pytest.importorskip("pwd")
    user = pwd.getpwuid(0)
    assert value("output_dir", f"--output_dir=~{user.pw_name}/out") == f"{user.pw_dir}/out"
    assert refused("--output_dir=~nobody.here/out") == (
        "--output_dir must be a path, got '~nobody.here/out', but there is no user 'nobody.here'; "
        "write './~nobody.here/out' for a name that begins with ~"
    )
    assert refused("--styles=a,~nobody.here").startswith("--styles must be a path, got '~nobody.")


def test_every_path_of_the_scripts_and_benchmarks_is_one():
    """A flag whose help speaks of a file or folder is defined as a path."""
    texts = [
        path.read_text()
        for folder in ("scripts", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ]
    wrong = []
    for text in texts:
        for start in re.finditer(r"flags\.DEFINE_string,?\(?", text):
            told = text[start.start() : start.start() + 160]
            if re.search(r'"(File|Folder|Picture|HDF5|JSON file|Where to write)\b', told):
                wrong.append(told)
        assert "flags.DEFINE_list" not in text
    assert not wrong


@pytest.mark.parametrize("name", [*LISTS, "content_weight", "style_layers"])
@pytest.mark.parametrize("text", ["a,", ",a", "a,,b", ",", 'a,""'])
def test_an_empty_item_is_refused_by_the_flags_name(name, text, home, value, refused):
    if name == "style_masks":
        assert "" in value(name, f"--{name}={text}")  # the whole style
    else:
        wanted = f"--{name} must be a list separated by commas, got an empty item in {text!r}"
        assert refused(f"--{name}={text}") == wanted


@pytest.mark.parametrize("name", ["content", "styles", "masks"])
def test_no_name_at_all_is_refused(name, home, refused):
    assert refused(f"--{name}=") == f"--{name} must be names of files, got ''"


def test_every_list_flag_given_again_appends(home, value):
    settings = [name for name in ADDRESSES if isinstance(FLAGS[name].parser, flags.ListParser)]
    assert len(settings) > 10
    for name in [*LISTS, *settings]:
        assert value(name, f"--{name}=2,1", f"--{name}=3") == ["2", "1", "3"], name


def test_numbers_given_one_by_one_make_a_sweep(home):
    with flagsaver.flagsaver():
        _parse(["nst-jax", "--content_weight=1", "--content_weight=2,4"])
        config, sweep = config_from_flags()
    assert sweep == {"content_weight": (1.0, 2.0, 4.0)} and config["content_weight"] == 1


ODD = ["a,b.jpg", ' "x" .jpg', "trailing ", "", '"', "new\nline", "caf\udce9", "\u202f.png", ","]


@pytest.mark.parametrize("items", [ODD, *([item] for item in ODD if item)])
def test_a_list_is_written_as_it_is_read(items):
    parser = flag_types._Paths(empty_items=True)
    text = flag_types._Joined().serialize(items)
    assert parser.parse(text) == items


@pytest.mark.parametrize("text", ['"a,b', '"a"b', 'c,"a" b'])
def test_double_quotes_enclose_whole_items(text, home, refused):
    assert refused(f"--styles={text}") == (
        f"--styles must be a list separated by commas, got {text!r}, where double quotes do not "
        "enclose a whole item"
    )


@pytest.mark.parametrize(
    ("there", "text", "absent", "name"),
    [
        (["a,b.jpg"], "a,b.jpg", "a", "a,b.jpg"),
        (["a, b.jpg", "a"], "x.jpg,a, b.jpg", "b.jpg", "a, b.jpg"),
        (["1,2,3.jpg", "s.jpg"], "s.jpg,1,2,3.jpg", "1", "1,2,3.jpg"),
        (["d,e/f.jpg"], "d,e/*.jpg", "d", "d,e/*.jpg"),
        (["../a,b.jpg"], "~/a,b.jpg", "~/a", "~/a,b.jpg"),
    ],
)
@pytest.mark.parametrize("flag", LISTS)
def test_a_name_with_commas_is_offered_in_quotes(
    home, value, refused, flag, there, text, absent, name
):
    for path in map(pathlib.Path, there):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert refused(f"--{flag}={text}") == (
        f"--{flag} must be names separated by commas, got {absent!r}, which is not there; write a "
        f"name with commas in double quotes: '\"{name}\"'"
    )
    # So written, it is read.
    item = name.replace("~", str(home))
    assert value(flag, f'--{flag}="{name}"') == [item]


def test_files_that_are_there_are_no_name_with_commas(home, value):
    for name in ("a", "b.jpg", "a,b.jpg"):
        pathlib.Path(name).touch()
    assert value("styles", "--styles=a,b.jpg") == ["a", "b.jpg"]
    assert value("styles", "--styles=none,other.jpg") == ["none", "other.jpg"]  # told when read

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import image, vgg
from nst_jax.files.images import write_image
from nst_jax.weights import fetch
from nst_jax.weights.load import save_params

REPOSITORY = Path(__file__).resolve().parent.parent
NAMES = ("tench", "goldfish", "great_white_shark", "hammerhead", "stingray", "cock", "hen")
PROBABILITIES = (0.05, 0.3, 0.1, 0.02, 0.4, 0.12, 0.01)
HIDDEN = 16  # the real head has half a gigabyte


@pytest.fixture(scope="module")
def script():
    path = REPOSITORY / "scripts" / "classify.py"
    spec = importlib.util.spec_from_file_location("classify", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def params(monkeypatch):
    """VGG16 with a small head that gives PROBABILITIES, whatever the picture."""
    monkeypatch.setattr(vgg, "HIDDEN", HIDDEN)
    tree = {
        layer: {kind: np.zeros(shape, np.float32) for kind, shape in arrays.items()}
        for layer, arrays in vgg.parameter_shapes("vgg16", head=True, classes=len(NAMES)).items()
    }
    tree["predictions"]["bias"] = np.log(np.float32(PROBABILITIES))
    return tree


@pytest.fixture
def picture(rng):
    return rng.random((240, 330, 3), np.float32)


@pytest.fixture
def files(tmp_path, params, picture):
    """Weights, class index and picture: the values of --weights, --class_index, --image."""
    paths = [tmp_path / name for name in ("head.h5", "index.json", "picture.png")]
    save_params(paths[0], params)
    index = {str(number): [f"n{number:08}", name] for number, name in enumerate(NAMES)}
    paths[1].write_text(json.dumps(index))
    write_image(paths[2], picture)
    return paths


@pytest.mark.slow
def test_the_most_probable_classes_come_first(script, params, picture):
    found = script.top_classes(params, picture, list(NAMES), top=3)
    assert [name for name, _ in found] == ["stingray", "goldfish", "cock"]
    np.testing.assert_allclose([value for _, value in found], [0.4, 0.3, 0.12], rtol=1e-5)


@pytest.mark.slow
def test_the_classes_are_those_of_the_prepared_picture(script, params, picture, rng):
    for arrays in params.values():
        arrays["kernel"] = 0.1 * rng.standard_normal(arrays["kernel"].shape, np.float32)
    params = {k: {n: jnp.asarray(a) for n, a in v.items()} for k, v in params.items()}
    probabilities = vgg.classify(params, script.prepare(picture))
    best = int(probabilities.argmax())
    (name, value), *_ = script.top_classes(params, picture, list(NAMES), top=1)
    assert name == NAMES[best]
    assert value == pytest.approx(float(probabilities[best]), rel=1e-4)


@pytest.mark.parametrize(("height", "width"), [(512, 700), (300, 256), (100, 150), (256, 256)])
def test_a_picture_is_resized_to_256_and_its_middle_cut_out(script, rng, height, width):
    picture = rng.random((height, width, 3), np.float32)
    shorter = min(height, width)
    whole = image.resize(picture, 256 * height // shorter, 256 * width // shorter)
    top, left = ((side - 224) // 2 for side in whole.shape[:2])
    found = script.prepare(picture)
    assert found.shape == (224, 224, 3)
    np.testing.assert_allclose(found, whole[top : top + 224, left : left + 224], atol=1e-5)


def test_a_long_strip_costs_no_more_than_a_square(script):
    strip = np.zeros((32, 200_000, 3), np.float32)
    strip[:, 100_000 - 20 : 100_000 + 20] = 1
    assert script.prepare(strip).shape == (224, 224, 3)
    assert script.prepare(strip).min() == 1


def test_names_or_number_that_do_not_fit_are_refused(script, params, picture):
    with pytest.raises(ValueError, match="wanted 7 class names, as in the weights, got 6"):
        script.top_classes(params, picture, list(NAMES[1:]))
    with pytest.raises(ValueError, match="top: wanted 1 to 7, got 8"):
        script.top_classes(params, picture, list(NAMES), top=8)
    with pytest.raises(ValueError, match="top: wanted 1 to 7, got 0"):
        script.top_classes(params, picture, list(NAMES), top=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read .Expecting value"),
        ("[]", 'wanted {"0"'),
        ("{}", 'wanted {"0"'),
        ("3", 'wanted {"0"'),
        ('{"1": ["n", "tench"]}', 'wanted {"0"'),
        ('{"0": ["n"]}', 'wanted {"0"'),
        ('{"0": ["n", 5]}', 'wanted {"0"'),
    ],
)
def test_a_class_index_of_another_form_is_refused(script, tmp_path, text, message):
    path = tmp_path / "index.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        script.read_class_names(path)
    assert str(error.value).startswith(f"{path}: cannot be read (")


def run_script(cache, *arguments):
    """The script as from the command line, but for the small head."""
    code = f"""if True:
        import runpy, sys
        from nst_jax import vgg
        vgg.HIDDEN = {HIDDEN}
        sys.path.insert(0, "scripts")  # as where a script is run by its name
        sys.argv = ["classify.py", *{[str(argument) for argument in arguments]}]
        runpy.run_path("scripts/classify.py", run_name="__main__")
    """
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={"NST_JAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu"},
    )


@pytest.mark.slow
def test_the_script_prints_the_top_five(files, tmp_path):
    model, index, picture = files
    index.rename(tmp_path / fetch.FILES["imagenet_classes"].name)
    result = run_script(tmp_path, f"--weights={model}", f"--image={picture}")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        " 40.00%  stingray\n"
        " 30.00%  goldfish\n"
        " 12.00%  cock\n"
        " 10.00%  great_white_shark\n"
        "  5.00%  tench\n"
    )


@pytest.mark.slow
def test_the_script_takes_the_folder_of_the_fetched_files(files, tmp_path):
    model, index, picture = files
    (tmp_path / "mine").mkdir()
    index.rename(tmp_path / "mine" / fetch.FILES["imagenet_classes"].name)
    usual = (f"--weights={model}", f"--image={picture}", f"--cache_dir={tmp_path / 'mine'}")
    result = run_script(tmp_path / "other", *usual, "--top=1")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == " 40.00%  stingray\n"
    # The weights by name are looked for there, too.
    result = run_script(tmp_path / "other", *usual, "--weights=vgg16")
    assert result.stderr.startswith(f"classify: {tmp_path / 'mine' / fetch.FILES['vgg16'].name}: ")


@pytest.mark.slow
def test_the_script_tells_how_to_fetch_what_is_absent(files, tmp_path):
    model, index, picture = files
    cache = tmp_path / "cache"
    result = run_script(cache, f"--weights={model}", f"--image={picture}")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"classify: {cache / 'imagenet_class_index.json'}: no such file; "
        "download it with: python scripts/fetch_weights.py --files=imagenet_classes\n"
    )
    result = run_script(cache, "--weights=vgg19", f"--image={picture}", f"--class_index={index}")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"classify: {cache / fetch.FILES['vgg19'].name}: no such file")
    assert result.stderr.endswith("python scripts/fetch_weights.py --files=vgg19\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image=absent.png"], "absent.png"),
        (["--weights=weights/vgg16.h5"], "weights/vgg16.h5: wanted the head (fc1, fc2"),
        (["--weights=absent.h5"], "absent.h5: no such file"),
        (["--top=8"], "top: wanted 1 to 7, got 8"),
        (["more.png"], "unexpected argument 'more.png': give the picture by --image"),
    ],
)
def test_the_script_ends_bad_input_with_one_line(files, tmp_path, arguments, message):
    model, index, picture = files
    usual = [f"--weights={model}", f"--class_index={index}", f"--image={picture}"]
    result = run_script(tmp_path, *usual, *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("classify: ") and message in result.stderr
    assert result.stderr.count("\n") == 1

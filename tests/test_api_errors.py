"""Wrong arguments of the public functions are refused in one line, before anything is compiled."""

import dataclasses

import basic
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nst_jax
from nst_jax import optimize
from nst_jax.optimizers import SGD

PICTURE = np.full((40, 48, 3), 0.5, np.float32)
CONFIG = basic.CONFIG.replace(
    size=None, steps=2, content_layers=("block1_conv1",), style_layers=("block1_conv1",)
)

AXES = "mesh must have the axes ('style', 'space') and may have 'width'"


def mesh(*names):
    return jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 4), names)


@dataclasses.dataclass
class Unhashable(optimize.Parametrization):
    numbers: tuple = ()


@pytest.fixture
def refused(compilations):
    """Checks that a call raises this error with this message alone, and compiles nothing."""

    def refused(error, message, function, *arguments, **options):
        jax.clear_caches()  # programs of earlier tests would not be counted
        with compilations() as count, pytest.raises(error) as caught:
            function(*arguments, **options)
        assert str(caught.value) == message
        assert count() == 0

    return refused


# Arguments of `stylize`, `optimize.run` and `optimize.run_given_gradients`.
def named(value):
    """Names of cases that are the same in every process: no addresses of objects."""
    return ",".join(value) if isinstance(value, dict) else getattr(value, "__name__", None)


BOTH = [
    (
        {"config": "sgd"},
        TypeError,
        "config must be an nst_jax.Config, got 'sgd'; presets are in nst_jax.presets",
    ),
    ({"config": {}}, TypeError, "config must be an nst_jax.Config, got {}"),
    (
        {"config": nst_jax.Config},
        TypeError,
        "config must be an nst_jax.Config, got the class Config",
    ),
    (
        {"optimizer": optax.adam},
        TypeError,
        "optimizer must be an optax transformation such as optax.adam(...), got the function adam",
    ),
    (
        {"optimizer": "sgd"},
        TypeError,
        "optimizer must be an optax transformation such as optax.adam(...), got 'sgd'",
    ),
    (
        {"optimizer": SGD()},
        TypeError,
        "optimizer must be an optax transformation such as optax.adam(...), got an object of type "
        "SGD; settings of an optimiser go to config.replace(optimizer=)",
    ),
    (
        {"optimizer": SGD},
        TypeError,
        "optimizer must be an optax transformation such as optax.adam(...), got the class SGD; "
        "settings of an optimiser go to config.replace(optimizer=)",
    ),
    ({"key": 0}, TypeError, "key must be one random key such as jax.random.key(0), got 0"),
    (
        {"key": np.zeros(2, np.float32)},
        TypeError,
        "key must be one random key such as jax.random.key(0), got an array of shape [2] and type "
        "float32",
    ),
    (
        {"key": np.zeros((3, 2), np.uint32)},
        ValueError,
        "key must be one random key such as jax.random.key(0), got an array of shape [3, 2]",
    ),
    (
        {"callback": 5},
        TypeError,
        "callback must be a function of a Progress, or None, got 5",
    ),
    (
        {"resume": "run/checkpoints"},
        TypeError,
        "resume must be an nst_jax.optimize.Checkpoint or None, got 'run/checkpoints'",
    ),
    (
        {"resume": (1, None, {})},
        TypeError,
        "resume must be an nst_jax.optimize.Checkpoint or None, got an object of type tuple",
    ),
    (
        {"parametrization": optimize.Pixels},
        TypeError,
        "parametrization must be of a class derived from nst_jax.optimize.Parametrization, got the "
        "class Pixels",
    ),
    (
        {"parametrization": Unhashable()},
        TypeError,
        "parametrization must be hashable, such as a frozen dataclass, got an object of type "
        "Unhashable",
    ),
    ({"sweep": [1, 2]}, TypeError, "sweep must be {address: numbers}, got [1, 2]"),
]


@pytest.mark.parametrize(("given", "error", "message"), BOTH, ids=named)
def test_stylize_refuses_what_every_run_refuses(vgg16, refused, given, error, message):
    given = {"config": CONFIG} | given
    refused(error, message, nst_jax.stylize, vgg16, PICTURE, [PICTURE], **given)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            {"content": "photo.jpg"},
            TypeError,
            "content must be a picture [H, W, 3] or a sequence of pictures, got 'photo.jpg'; the "
            "order is stylize(params, content, styles, config)",
        ),
        (
            {"content": None},
            TypeError,
            "content must be a picture [H, W, 3] or a sequence of pictures, got None; the order is "
            "stylize(params, content, styles, config)",
        ),
        ({"content": []}, ValueError, "content must hold at least one picture, got none"),
        (
            {"content": [PICTURE, PICTURE[:20]]},
            ValueError,
            "content must hold pictures of one shape, got [(20, 48, 3), (40, 48, 3)]",
        ),
        (
            {"styles": PICTURE},
            ValueError,
            "styles must be a sequence of pictures [h, w, 3], got an array of shape [40, 48, 3]; "
            "put a single style into a list",
        ),
        (
            {"styles": np.float32(0.5)},
            TypeError,
            "styles must be a sequence of pictures [h, w, 3], got an array of shape []; the order "
            "is stylize(params, content, styles, config)",
        ),
        (
            {"styles": {"night": PICTURE}},
            TypeError,
            "styles must be a sequence of pictures [h, w, 3], got an object of type dict; the "
            "order is stylize(params, content, styles, config)",
        ),
        ({"styles": []}, ValueError, "styles must hold at least one picture, got none"),
        (
            {"params": "vgg16"},
            TypeError,
            "params must be parameters of the network, as nst_jax.load_params returns, got "
            "'vgg16'; the order is stylize(params, content, styles, config)",
        ),
        ({"combine": {}}, TypeError, "combine must be an nst_jax.Combine, got {}"),
        ({"placement": None}, TypeError, "placement must be an nst_jax.Placement, got None"),
        (
            {"inputs": [PICTURE]},
            TypeError,
            "inputs must be {term: tree}, got an object of type list",
        ),
        (
            {"on_window": True},
            TypeError,
            "on_window must be a function of two numbers, or None, got True",
        ),
        (
            {"initial": PICTURE[..., 0]},
            ValueError,
            "initial must have shape [H, W, 3], got [40, 48]",
        ),
        (
            {"initial": [PICTURE, PICTURE[..., 0]]},
            ValueError,
            "initial[1] must have shape [H, W, 3], got [40, 48]",
        ),
    ],
    ids=str,
)
def test_stylize_refuses(vgg16, refused, given, error, message):
    plain = {"params": vgg16, "content": PICTURE, "styles": [PICTURE], "config": CONFIG}
    refused(error, message, nst_jax.stylize, **plain | given)


def test_stylize_refuses_a_mesh_with_other_axes(vgg16, refused):
    def paint():
        placement = nst_jax.Placement(mesh=mesh("data", "model"))
        nst_jax.stylize(vgg16, PICTURE, [PICTURE], CONFIG, placement=placement)

    refused(ValueError, f"{AXES}, got ('data', 'model')", paint)


def test_params_and_content_that_are_swapped_are_refused(vgg16, refused):
    message = (
        "params must be parameters of the network, as nst_jax.load_params returns, got an array "
        "of shape [40, 48, 3]; the order is stylize(params, content, styles, config)"
    )
    refused(TypeError, message, nst_jax.stylize, PICTURE, vgg16, [PICTURE], CONFIG)


def loss(image):
    value = jnp.sum(jnp.square(image))
    return value, {"total": value}


@pytest.mark.parametrize("function", [optimize.run, optimize.run_given_gradients])
@pytest.mark.parametrize(("given", "error", "message"), BOTH, ids=named)
def test_optimize_refuses_what_every_run_refuses(refused, function, given, error, message):
    refused(error, message, function, loss, PICTURE[None], **{"config": CONFIG} | given)


@pytest.mark.parametrize("function", [optimize.run, optimize.run_given_gradients])
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"images": [PICTURE]}, TypeError, "an array [N, H, W, 3], got an object of type list"),
        ({"images": PICTURE}, ValueError, "[N, H, W, 3], got an array of shape [40, 48, 3]"),
        (
            {"images": np.zeros((1, 40, 48, 3), np.uint8)},
            TypeError,
            "floating point in [0, 1], got uint8",
        ),
    ],
    ids=str,
)
def test_optimize_refuses_images(refused, function, given, error, message):
    refused(error, f"images must be {message}", function, loss, **given, config=CONFIG)


def test_optimize_refuses_other_losses_states_and_meshes(refused):
    arguments = (PICTURE[None], CONFIG)
    refused(TypeError, "loss must be a function, got 'gram'", optimize.run, "gram", *arguments)
    refused(
        *(TypeError, "value_and_grad must be a function, got None"),
        *(optimize.run_given_gradients, None, *arguments),
    )
    refused(
        *(TypeError, "previous must be an nst_jax.optimize.State or None, got (1, 2)"),
        *(optimize.run, loss, *arguments),
        previous=(1, 2),
    )
    refused(
        *(ValueError, f"{AXES}, got ('style', 'model')"),
        *(optimize.run, loss, *arguments),
        mesh=mesh("style", "model"),
    )
    refused(
        *(
            TypeError,
            "mesh must be a jax.sharding.Mesh, as nst_jax.sharding.make_mesh makes, or "
            "None, got 'style:2'",
        ),
        *(optimize.run, loss, *arguments),
        mesh="style:2",
    )
    refused(
        *(ValueError, "each must hold arguments for each of 1 images, got 2"),
        *(optimize.run_given_gradients, loss, *arguments),
        each=[(), ()],
    )


@pytest.mark.parametrize("key", [jax.random.key(3), jax.random.PRNGKey(3), np.uint32([0, 3])])
def test_keys_of_either_kind_are_taken(key):
    optimize.check_arguments(
        config=CONFIG,
        optimizer=optax.adam(1.0),
        parametrization=optimize.Pixels(),
        sweep=None,
        resume=None,
        key=key,
        callback=print,
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "None"),
        ("a" * 99, "an object of type str"),
        ({"a": 1}, "{'a': 1}"),
        (list(range(99)), "an object of type list"),
        ({"a": PICTURE}, "an object of type dict"),
        (jnp.zeros((2, 3)), "an array of shape [2, 3]"),
        (jax.random.split(jax.random.key(0)), "an array of shape [2]"),
        (SGD, "the class SGD"),
        (loss, "the function loss"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_came_is_told_in_a_few_words(value, words):
    assert optimize.described(value) == words

"""The networks, and gradients through them, against torchvision's layout in plain PyTorch.

Weights are random and get here through a state dictionary in a file and the converter. What
differs is zero padding: outside the picture there is torchvision's mean colour in PyTorch, and
our own, at most half a grey level away, after conversion. So positions that see no border agree
to rounding as they are; and once the PyTorch network gets our colour around its picture, so do
all positions and the gradients.
"""

import basic
import jax
import numpy as np
import pytest

import nst_jax
from nst_jax import examples, vgg
from nst_jax.weights import convert

pytestmark = pytest.mark.torch

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
OUR_MEAN = tuple(level / 255 for level in vgg.MEAN_BGR[::-1])

# Output channels of the convolutions, M for pooling: configurations D and E of the paper.
LAYERS = {
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}
HIDDEN = 32  # of the full size, the head alone has half a gigabyte
CLASSES = 10


@pytest.fixture(scope="module")
def torch():
    # Not at the top: the file is collected where there is no PyTorch, too.
    import torch

    torch.set_num_threads(1)  # beside other workers, threads wait for each other
    return torch


@pytest.fixture(autouse=True)
def full_precision():
    # By default, accelerators multiply float32 in fewer digits than are compared here.
    with jax.default_matmul_precision("highest"):
        yield


def build(torch, model):
    """torchvision's `model` with random weights that keep activations and biases alive."""
    nn = torch.nn
    modules, channels = [], 3
    for layer in LAYERS[model].split():
        if layer == "M":
            modules.append(nn.MaxPool2d(2))
        else:
            modules += [nn.Conv2d(channels, int(layer), 3, padding=1), nn.ReLU()]
            channels = int(layer)
    network = nn.Module()
    network.features = nn.Sequential(*modules)
    network.classifier = nn.Sequential(
        *(nn.Linear(512 * 7 * 7, HIDDEN), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Dropout()),
        nn.Linear(HIDDEN, CLASSES),
    )
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        else:
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


def run(torch, network, image, *, surroundings=None):
    """Every activation after ReLU and every pooling, in order: `{layer: [C, h, w]}`.

    Args:
      image: tensor [3, H, W], RGB in [0, 1].
      surroundings: a colour around the picture in place of zero padding.
    """

    def normalize(x):
        return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]

    first, *rest = network.features
    if surroundings is None:
        x = first(normalize(image))
    else:
        _, height, width = image.shape
        canvas = torch.tensor(surroundings)[:, None, None].repeat(1, height + 2, width + 2)
        canvas[:, 1:-1, 1:-1] = image
        x = torch.nn.functional.conv2d(normalize(canvas), first.weight, first.bias)
    found, block, index = {}, 1, 1
    for module in rest:
        x = module(x)
        if isinstance(module, torch.nn.ReLU):
            found[f"block{block}_conv{index}"] = x
            index += 1
        elif isinstance(module, torch.nn.MaxPool2d):
            found[f"block{block}_pool"] = x
            block, index = block + 1, 1
    return found


@pytest.fixture(scope="module", params=["vgg16", "vgg19"])
def networks(request, torch, tmp_path_factory):
    """A PyTorch network, and our parameters converted from its file."""
    network = build(torch, request.param)
    folder = tmp_path_factory.mktemp(request.param)
    torch.save(network.state_dict(), folder / "network.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vgg, "HIDDEN", HIDDEN)
        assert convert.convert(folder / "network.pth", folder / "network.h5") == request.param
        return network, nst_jax.load_params(folder / "network.h5")


def to_torch(torch, image):
    return torch.from_numpy(np.moveaxis(image, -1, 0).copy())


def layer_errors(torch, networks, image, **options):
    """Absolute differences / the layer's largest value in PyTorch: `{layer: [h, w, C]}`."""
    network, params = networks
    with torch.no_grad():
        expected = run(torch, network, to_torch(torch, image), **options)
    layers = tuple(expected)
    assert layers == vgg.layer_names(vgg.network_name(params))
    found = jax.jit(lambda p, x: nst_jax.features(p, x, layers=layers))(params, image)
    errors = {}
    for layer in layers:
        wanted = np.moveaxis(expected[layer].numpy(), 0, -1)
        assert np.mean(wanted > 0) > 0.2, f"{layer} is dead"
        errors[layer] = np.abs(found[layer] - wanted) / wanted.max()
    return errors


def test_features_equal_wherever_no_border_is_seen(torch, networks, rng):
    errors = layer_errors(torch, networks, rng.random((192, 211, 3), np.float32))
    inside, margin = {}, 0
    for layer, error in errors.items():
        margin = -(-margin // 2) if layer.endswith("pool") else margin + 1
        if min(error.shape[:2]) > 2 * margin:
            inside[layer] = error[margin:-margin, margin:-margin].max()
    assert "block5_conv1" in inside
    assert all(error <= 1e-5 for error in inside.values()), inside
    at_border = {layer: error.max() for layer, error in errors.items()}
    assert at_border["block1_conv1"] > 1e-4  # it is inexact there, as the converter says
    assert all(error < 3e-3 for error in at_border.values()), at_border


def test_features_equal_everywhere_with_our_colour_around_the_picture(torch, networks, rng):
    image = rng.random((97, 131, 3), np.float32)
    errors = layer_errors(torch, networks, image, surroundings=OUR_MEAN)
    largest = {layer: error.max() for layer, error in errors.items()}
    assert all(error <= 1e-5 for error in largest.values()), largest


# The loss of a style transfer

CONTENT_LAYER = "block4_conv2"
STYLE_LAYERS = tuple(f"block{block}_conv1" for block in range(1, 6))


def torch_terms(torch, network, image, content, style, **options):
    """Gatys' content and style loss, from equations 1, 4 and 5 of the paper."""

    def gram(features):
        flat = features.flatten(1)
        return flat @ flat.T / flat.shape[1]

    found, at_content, at_style = (
        run(torch, network, picture, **options) for picture in (image, content, style)
    )
    content_loss = ((found[CONTENT_LAYER] - at_content[CONTENT_LAYER]) ** 2).sum() / 2
    style_loss = sum(
        ((gram(found[layer]) - gram(at_style[layer])) ** 2).sum() / (4 * len(found[layer]) ** 2)
        for layer in STYLE_LAYERS
    ) / len(STYLE_LAYERS)
    return content_loss, style_loss


# One for all tests, so that it compiles once a network.
our_gradient = jax.jit(jax.grad(nst_jax.objective_value, has_aux=True))


def gradients(torch, networks, **options):
    """Terms and gradients [H, W, 3], in PyTorch and ours, of one loss with both terms alike."""
    network, params = networks
    image = np.random.default_rng(0).random((65, 83, 3), np.float32)
    content, style = examples.butterfly((65, 83)), examples.rainbow((48, 64))
    variable = to_torch(torch, image).requires_grad_()
    terms = torch_terms(
        torch, network, variable, to_torch(torch, content), to_torch(torch, style), **options
    )
    scales = [1 / term.item() for term in terms]
    sum(scale * term for scale, term in zip(scales, terms, strict=True)).backward()
    config = basic.CONFIG.replace(
        content_layers=(CONTENT_LAYER,),
        style_layers=STYLE_LAYERS,
        content_reduction="half_sum",
        style_normalization="gatys",
        content_weight=scales[0],
        style_weight=scales[1],
    )
    targets = nst_jax.compute_targets(params, content, [style], config)
    gradient, found = our_gradient(image, params, targets, config)
    return np.moveaxis(variable.grad.numpy(), 0, -1), gradient, found


def relative_norm(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def test_gradients_equal_with_our_colour_around_the_picture(torch, networks):
    expected, found, terms = gradients(torch, networks, surroundings=OUR_MEAN)
    # PyTorch's terms are both scaled to 1.
    np.testing.assert_allclose([terms["content"], terms["style"]], 1.0, rtol=1e-5)
    assert relative_norm(found, expected) <= 1e-5
    # Rounding may turn a ReLU on or off, or choose another maximum, here and there.
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_gradients_with_zero_padding_on_both_sides_differ_by_the_border_alone(torch, networks):
    expected, found, terms = gradients(torch, networks)
    np.testing.assert_allclose([terms["content"], terms["style"]], 1.0, rtol=1e-3)
    assert 1e-4 < relative_norm(found, expected) < 0.05


# The head


def test_logarithms_of_probabilities_equal(torch, networks, rng, monkeypatch):
    network, params = networks
    monkeypatch.setattr(vgg, "HIDDEN", HIDDEN)
    image = rng.random((224, 224, 3), np.float32)
    with torch.no_grad():
        found = run(torch, network, to_torch(torch, image), surroundings=OUR_MEAN)
        logits = network.classifier(found["block5_pool"].flatten()[None])
        expected = torch.log_softmax(logits, dim=1)[0].numpy()
    assert np.exp(expected).max() > 2 / CLASSES
    error = np.abs(np.log(nst_jax.classify(params, image)) - expected).max()
    assert error <= 1e-5 * np.abs(expected).max()

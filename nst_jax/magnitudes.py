"""How large activations usually are, layer by layer, and features brought to a common scale.

Of the Oxford networks, whose images are of 0-255, they are from 5 to 2000, where those of the
networks that many published weights were tuned for are near one at every layer.
"""

from collections.abc import Mapping

import jax

from nst_jax import vgg

# Root mean square of the activations, with the bundled weights and max pooling, over six pictures
# at 256x256: Tuebingen's Neckarfront, The Starry Night, The Scream, and the three built-in ones.
# Of the built-in ones alone it is a fifth larger, at every layer of either network.
_USUAL = {
    "vgg16": (
        *(64.2, 312.5, 367.3),
        *(433.4, 693.8, 965.0),
        *(866.1, 851.5, 770.6, 1094.4),
        *(553.3, 314.9, 116.0, 174.2),
        *(83.8, 37.8, 8.0, 11.4),
    ),
    "vgg19": (
        *(60.0, 265.7, 311.7),
        *(305.3, 414.6, 585.4),
        *(459.0, 478.8, 790.3, 1428.8, 1859.3),
        *(1391.9, 1065.7, 601.8, 239.7, 372.2),
        *(178.3, 80.7, 32.4, 7.3, 10.4),
    ),
}


def usual_sizes(model: str) -> dict[str, float]:
    """The usual root mean square of each layer of `model` ("vgg16" or "vgg19")."""
    return dict(zip(vgg.layer_names(model), _USUAL[model], strict=True))


def normalized(params: Mapping, features: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """`features` `{layer: [..., h, w, C]}` of the network of `params`, divided by what is usual."""
    model = vgg.network_name(params)
    usual = usual_sizes(model)
    return {name: value / usual[vgg.resolve_layer(model, name)] for name, value in features.items()}

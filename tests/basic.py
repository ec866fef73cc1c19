"""A configuration that is as plain as can be, for tests to change."""

import nst_jax
from nst_jax.extractor import VGGExtractor
from nst_jax.optimizers import SGD
from nst_jax.terms import Content, GramStyle

CONFIG = nst_jax.Config(
    terms=(Content(), GramStyle()),
    network=VGGExtractor(),
    optimizer=SGD(),
    first_size=None,
    scale_factor=2**0.5,
    first_steps=None,
    steps=200,
)

# Those of the default preset up to block 3, which is half as deep as its own.
THREE_BLOCKS = {
    "content_layers": ("block3_conv1",),
    "style_layers": ("block1_conv1", "block2_conv1", "block3_conv1"),
    "nearest_layers": ("block2_conv2",),
}

# What compiles fastest, where the depth of the network does not matter.
FIRST_LAYERS = {"content_layers": ("block1_conv2",), "style_layers": ("block1_conv1",)}

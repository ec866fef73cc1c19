"""The terms of a loss: what they compare, and how to write another one.

A loss is a weighted sum of terms. A term looks at layers of a network, or at the picture itself. It
says three things:

- `target`: what to keep of the content, of a style or of data of the run;
- `sums`: which sums over positions to take of the picture;
- `loss`: the loss that these sums and the target give.

The sums of the parts of a picture add up to those of the whole picture. So `nst_jax.objective` can
blend, mask and weigh any term. `nst_jax.partition` can evaluate it on a whole picture, in strips,
in windows or on a mesh.

To write a term, derive a class from `Term`, decorate it with `nst_jax.settings.settings`, and
define `name`, `weight`, `layers`, `sums` and `loss`. This term compares the means of the channels:

    @settings
    class ChannelMeans(Term):
        name: str = option("means")
        weight: Number = number(1.0, low=0)
        layers: Weights = weighted(("block1_conv1", "block2_conv1"))
        refers = "style"

        def sums(self, layer, x, weights, target, at):
            weights = jnp.ones(x.shape[:2]) if weights is None else weights
            return {"count": jnp.sum(weights), "sum": jnp.einsum("hw,hwc->c", weights, x)}

        def target(self, layer, measured, at):
            return measured["sum"] / measured["count"]

        def loss(self, sums, target, at):
            found = {}
            for layer, weight in self.layers.items():
                mean = sums[layer]["sum"] / sums[layer]["count"]
                found[layer] = weight * jnp.mean(jnp.square(mean - target[layer]))
            return found

`Config().replace(means=ChannelMeans(weight=3.0))` adds it to a loss. `Term` describes each method,
and the facts that a term may state about itself.
"""

from nst_jax.terms.content import Content, Reduction
from nst_jax.terms.contract import (
    IMAGE,
    KINDS,
    At,
    Field,
    Kind,
    Term,
    Tree,
    check_term,
    check_terms,
    fields_of,
    is_field,
    map_fields,
    with_fields,
    without_fields,
)
from nst_jax.terms.kernels import BatchNormStyle, Kernel, KernelStyle
from nst_jax.terms.laplacian import Laplacian
from nst_jax.terms.matting import Matting
from nst_jax.terms.nearest import MatchedNeighbors, NearestNeighbors
from nst_jax.terms.relaxed_transport import (
    MomentMatching,
    Palette,
    RelaxedTransport,
    SelfSimilarity,
)
from nst_jax.terms.shifted import ShiftedGramStyle
from nst_jax.terms.sliced import HistogramStyle, SlicedWassersteinStyle
from nst_jax.terms.statistics import (
    FIRST_CONVOLUTIONS,
    GramStyle,
    Normalization,
    WassersteinStyle,
)
from nst_jax.terms.temporal import Temporal
from nst_jax.terms.variation import TotalVariation, VariationForm

__all__ = [
    "FIRST_CONVOLUTIONS",
    "IMAGE",
    "KINDS",
    "TERMS",
    "At",
    "BatchNormStyle",
    "Content",
    "Field",
    "GramStyle",
    "HistogramStyle",
    "Kernel",
    "KernelStyle",
    "Kind",
    "Laplacian",
    "MatchedNeighbors",
    "Matting",
    "MomentMatching",
    "NearestNeighbors",
    "Normalization",
    "Palette",
    "Reduction",
    "RelaxedTransport",
    "SelfSimilarity",
    "ShiftedGramStyle",
    "SlicedWassersteinStyle",
    "Temporal",
    "Term",
    "TotalVariation",
    "Tree",
    "VariationForm",
    "WassersteinStyle",
    "check_term",
    "check_terms",
    "fields_of",
    "is_field",
    "map_fields",
    "with_fields",
    "without_fields",
]

TERMS: dict[str, dict[str, type[Term]]] = {
    "content": {"squares": Content},
    "style": {
        "gram": GramStyle,
        "shifted_gram": ShiftedGramStyle,
        "wasserstein": WassersteinStyle,
        "sliced": SlicedWassersteinStyle,
        "histogram": HistogramStyle,
        "batch_norm": BatchNormStyle,
        "kernel": KernelStyle,
    },
    "tv": {"total_variation": TotalVariation},
    "nearest": {"nearest": NearestNeighbors},
    "matched": {"matched": MatchedNeighbors},
    "matting": {"matting": Matting},
    "remd": {"relaxed_transport": RelaxedTransport},
    "moments": {"moments": MomentMatching},
    "palette": {"palette": Palette},
    "similarity": {"self_similarity": SelfSimilarity},
    "laplacian": {"laplacian": Laplacian},
    "temporal": {"temporal": Temporal},
}
"""The terms that come with the package, `{name: {kind: class}}`. The first kind is the default."""

"""The terms and the network that a configuration describes."""

from nst_jax.config import Config
from nst_jax.extractor import Network, VGGExtractor
from nst_jax.terms import Content, GramStyle, Term, TotalVariation, WassersteinStyle


def terms_of(config: Config) -> tuple[Term, ...]:
    """The terms of the loss; none of a total variation whose weight is None or 0."""
    terms: list[Term] = []

    def layers(kind):
        return dict(zip(getattr(config, f"{kind}_layers"), config.layer_weights(kind), strict=True))

    if config.content_layers:
        terms.append(
            Content(
                weight=config.content_weight,
                layers=layers("content"),
                reduction=config.content_reduction,
            )
        )
    if config.style_layers:
        style = {"weight": config.style_weight, "layers": layers("style")}
        if config.style_loss == "wasserstein":
            terms.append(WassersteinStyle(**style))
        else:
            terms.append(GramStyle(**style, normalization=config.style_normalization))
    if config.has_total_variation():
        terms.append(TotalVariation(weight=config.tv_weight, form=config.tv_form))
    return (*terms, *config.terms)


def extractor_of(config: Config) -> Network:
    """The network; of VGG the parameters say which."""
    if config.extractor is not None:
        return config.extractor
    return VGGExtractor(
        pooling=config.pooling,
        pooling_correction=config.pooling_correction,
        padding=config.padding,
        precision=config.precision,
        normalize_features=config.normalize_features,
    )

"""Runs to be shown on a page, for its tests."""

import numpy as np

from nst_jax.cli.look import report_page

NASTY = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">.png'


def painted(rng, height, width):
    """A picture of some patches of colour."""
    patches = rng.random((6, 8, 3))
    rows, columns = (np.arange(side) * n // side for side, n in ((height, 6), (width, 8)))
    return patches[rows][:, columns].astype(np.float32)


def run_of(count, *, state="finished", step=None, steps=60, labels=None, refresh=5):
    rng = np.random.default_rng(count)
    labels = labels or [f"style {n}" for n in range(count)]
    step = step or (steps // 2 if state == "running" else steps)

    def shown(label):
        image = painted(rng, 90, 120)
        return report_page.Embedded(
            label, report_page.data_uri(image, longest=120), image.shape[:2]
        )

    content = shown("content")
    styles = [shown(label) for label in labels]
    at = np.arange(1, step + 1)
    outputs = []
    for n, (label, style) in enumerate(zip(labels, styles, strict=True)):
        terms = {"content": 10.0 * at, "style": 1e6 * (n + 1) / at, "tv": 0.0 * at}
        metrics = {"step": at.tolist(), "total": sum(terms.values()).tolist()}
        metrics |= {name: values.tolist() for name, values in terms.items()}
        layers = [
            (int(k), {"content": {"block4_conv2": 10.0 * k}, "style": {"block1_conv1": 1e6 / k}})
            for k in at[::10]
        ]
        outputs.append(
            report_page.Card(
                label=label,
                stem=f"content__{label}",
                content=content,
                shown=[style],
                picture=shown(label),
                metrics=metrics,
                layers=layers,
            )
        )
    return report_page.Run(
        state=state,
        step=step,
        steps=steps,
        seconds=12.3,
        inputs=[("content", content), *(("style", style) for style in styles)],
        outputs=outputs,
        pictures=count,
        scales=[report_page.Scale((45, 60), step // 2, step // 2, (2.0, 1), 5.0)]
        + [report_page.Scale((90, 120), step, step - step // 2, (3.0, 1), 7.0)],
        settings={"network": "vgg19", "seed": 0, "config": {"steps": steps, "layers": ("a", "b")}},
        refresh=refresh,
        written=1_600_000_000.0,
    )

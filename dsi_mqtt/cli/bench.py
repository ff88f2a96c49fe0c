"""`dsi-mqtt bench …`: what things cost, beside a baseline measured in the same run.

benchmarks/METHODOLOGY.md says how each is measured and what its figures mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsi_mqtt.cli.common import JsonOption

app = typer.Typer(
    help="Measure what this system costs, beside a baseline in the same run.",
    short_help="Measure what this system costs, beside a baseline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def bench() -> None:
    """Measure what this system costs, beside a baseline in the same run."""


@app.command()
def hop(
    json: JsonOption = False,
    repeats: Annotated[int, typer.Option(min=1, help="Of ours and of the baseline, in turn.")] = 5,
    sizes: Annotated[str, typer.Option(help="Bytes of the tensors, as in 1024,16K,8M.")] = (
        "1K,16K,64K,1M,8M"
    ),
    messages: Annotated[
        int | None, typer.Option(min=1, help="A repeat's; by default fewer for larger tensors.")
    ] = None,
    qos: Annotated[int, typer.Option(min=0, max=0, help="Activations travel at QoS 0 only.")] = 0,
) -> None:
    """Measure one hop: tensor in, tensor out, between two processes over a broker of its own.

    Beside it, over the same broker, a plain C program on libmosquitto that sends the same bytes as
    one message. Needs a C compiler and libmosquitto's headers.
    """
    from dsi_mqtt.cli.bench_hop_report import report_hop  # noqa: PLC0415 - for this command alone

    report_hop(sizes, repeats=repeats, messages=messages, qos=qos, as_json=json)


@app.command()
def decode(
    json: JsonOption = False,
    shape: Annotated[
        str, typer.Option(help="Of the model, a Llama of so many parameters.")
    ] = "llama-336m",
    repeats: Annotated[int, typer.Option(min=1, help="Of each series, in turn.")] = 5,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of each prompt.")] = 64,
    new_tokens: Annotated[int, typer.Option(min=2, help="Generated behind each prompt.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and the prompts.")] = 0,
) -> None:
    """Measure decoding: one segment, three segments, and eight sessions at once.

    Over brokers of their own, each segment in a process with one thread, beside `generate` of
    plain transformers. The model has random weights and is written to a temporary folder.
    """
    from dsi_mqtt.cli.bench_decode_plan import DecodePlan, shape_named  # noqa: PLC0415 - as above
    from dsi_mqtt.cli.bench_decode_report import report_decode  # noqa: PLC0415

    plan = DecodePlan(shape_named(shape), repeats, prompt_tokens, new_tokens, seed)
    report_decode(plan, as_json=json)


@app.command()
def planner(
    json: JsonOption = False,
    instances: Annotated[
        int, typer.Option(min=0, help="Small problems that are solved in other ways too.")
    ] = 600,
    nodes: Annotated[
        list[int] | None, typer.Option(help="Time problems of so many nodes only.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the problems.")] = 0,
) -> None:
    """Compare the planner with trying all and with a linear programme, and time it.

    Small problems are solved again: two thirds by trying all, one by HiGHS (scipy). Large ones, up
    to 80 units on 1,000 nodes, are timed on one core. It takes about half an hour.
    """
    from dsi_mqtt.cli.bench_planner_report import report_planner  # noqa: PLC0415 - as above

    report_planner(instances=instances, nodes=nodes, seed=seed, as_json=json)


@app.command()
def codecs(
    json: JsonOption = False,
    model: Annotated[
        str | None, typer.Option(help="Folder of one that answers in one pass; default: MiniLM.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Its inputs, JSON lines; default: the demo's reports.")
    ] = None,
    inputs: Annotated[int, typer.Option(min=1, help="How many of them at most.")] = 96,
    decoder: Annotated[
        Path | None, typer.Option(help="Folder of a model that generates, with --text.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="What its perplexity is told of: text it was not trained on."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of each figure of time.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the values that are timed.")] = 0,
) -> None:
    """Measure the codecs of hops: bytes, time, and what they do to a model's answers.

    Each at every cut alone and at several together, beside the same model over raw hops.
    """
    from dsi_mqtt.cli.bench_codecs_report import codecs_plan, report_codecs  # noqa: PLC0415 - as above

    plan = codecs_plan(model, samples, decoder, text, inputs=inputs, repeats=repeats, seed=seed)
    report_codecs(plan, as_json=json)


@app.command()
def forecast(
    json: JsonOption = False,
    requests: Annotated[
        int, typer.Option(min=20, help="Of each case, one by one and again at random.")
    ] = 200,
    cases: Annotated[
        int | None, typer.Option(min=0, help="So many of the cases; by default all.")
    ] = None,
    simulated: Annotated[int, typer.Option(min=20, help="Requests of each simulated load.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of what comes at random.")] = 0,
) -> None:
    """Compare forecasts, written down before traffic, with what requests then take.

    Real engines and timers, each node behind a shaped link on this machine; generations; then waits
    under load beside the simulator's. It takes about 35 minutes.
    """
    from dsi_mqtt.cli.bench_forecast_cases import CASES, TEXT_CASES  # noqa: PLC0415 - for this command alone
    from dsi_mqtt.cli.bench_forecast_report import (  # noqa: PLC0415 - as above
        ForecastPlan,
        report_forecast,
    )

    texts = TEXT_CASES if cases is None else TEXT_CASES[: max(0, cases - len(CASES))]
    plan = ForecastPlan(CASES[:cases], texts, requests, simulated, seed)
    report_forecast(plan, as_json=json)

"""Verbs of ``openvla`` that measure and compare policies, and close the loop."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from openvla_ros.cli.verbosity import Verbosity, printer, progress_console, verbosity
from openvla_ros.resources import SMALL_BASE


def register(app: typer.Typer) -> None:
    """Add this module's verbs to ``app``."""
    app.command()(evaluate)
    app.command()(compare)
    app.command()(loop)


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder, hub id, or 'expert'.")],
    task: Annotated[list[str] | None, typer.Option(help="Simulation task; repeatable.")] = None,
    seeds: Annotated[
        str, typer.Option(help="Scene seeds: numbers and ranges, such as 100..199,500.")
    ] = "100..199",
    adapter: Annotated[Path | None, typer.Option(help="Folder of a LoRA adapter.")] = None,
    robot: Annotated[str, typer.Option(help="A simulated robot.")] = "sim_widowx",
    live: Annotated[
        bool, typer.Option("--live", help="Run through the real nodes, topics and clocks, in real time.")
    ] = False,
    videos: Annotated[int, typer.Option(help="Trials to film per task; not with --live.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Folder for the report page, videos and logs.")] = None,
    unnorm_key: Annotated[str | None, typer.Option(help="Dataset whose statistics to use.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure how often a policy succeeds in simulation, with a 95% Wilson interval.

    Example:
      openvla evaluate runs/base --adapter runs/cups --task lift --seeds 100..199 --json
    """
    from openvla_ros.evaluation.evaluation_run import EvaluationRequest, evaluate_tasks
    from openvla_ros.evaluation.page import add_facts, add_rates, add_videos
    from openvla_ros.evaluation.trials import Trial, parse_seeds
    from openvla_ros.report import Page

    request = EvaluationRequest(
        checkpoint, adapter, robot, tuple(task or ("lift",)), parse_seeds(seeds), unnorm_key, device
    )
    folder = output or Path("runs") / f"evaluate-{datetime.now():%Y%m%d-%H%M%S}"

    def report(trial: Trial) -> None:
        if not as_json and verbosity() is not Verbosity.QUIET:
            word = "done" if trial.success else "failed"
            typer.echo(f"{trial.task} {trial.seed}: {word} after {trial.steps} steps: {trial.instruction}")

    if live:
        from openvla_ros.programs.live_evaluation import evaluate_live

        folder.mkdir(parents=True, exist_ok=True)
        result = evaluate_live(request, folder, report)
    else:
        result = evaluate_tasks(request, folder if videos else None, videos, report)
    if output is not None or videos or live:
        page = Page("Closed-loop evaluation", result.policy)
        add_facts(page, result)
        add_rates(page, {**result.by_task(), "all": result.rate}, f"{len(result.trials)} trials")
        add_videos(page, {"": (result, folder)}, folder)
        page.write(folder / "index.html")
    if as_json:
        typer.echo(json.dumps(result.to_json()))
    else:
        for name, rate in result.by_task().items():
            typer.echo(f"{name}: {rate}")


def compare(
    policies: Annotated[
        list[str], typer.Argument(help="Adapter folders for the running policy node; 'base': no adapter.")
    ],
    trials: Annotated[int, typer.Option(help="Trials per policy.")],
    output: Annotated[Path, typer.Option(help="File for your verdicts; rerun the command to resume it.")],
    instruction: Annotated[
        list[str] | None, typer.Option(help="Instructions, used in turn; if none, you are asked each time.")
    ] = None,
    robot: Annotated[str, typer.Option(help="Robot profile.")] = "widowx",
    time_limit: Annotated[float, typer.Option(help="Time limit of each trial, seconds.")] = 30.0,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the trial order; random by default.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Compare policies on the running robot, blinded: in random order, named only after your last verdict.

    After each trial press y for success or n for failure. Ctrl-C stops; rerun the command to resume.

    Example:
      openvla compare base runs/cups --trials 10 --output cups.jsonl --instruction "stack the cups"
    """
    from openvla_ros.evaluation.blinded import BlindedComparison
    from openvla_ros.programs.live_evaluation import compare_on_robot

    names = ["" if policy == "base" else policy for policy in policies]
    comparison = BlindedComparison(output, names, trials, seed)

    def words(number: int) -> str:
        typer.echo(f"\ntrial {number + 1} of {len(comparison.order)}: reset the scene")
        if instruction:
            text = instruction[number // len(names) % len(instruction)]
            typer.confirm(f'ready for "{text}"?', default=True, abort=True)
            return text
        return str(typer.prompt("instruction"))

    def verdict(outcome: str) -> bool:
        typer.echo(f"ended: {outcome}. success? [y/n] ", nl=False)
        while (key := typer.getchar().lower()) not in ("y", "n"):
            if key == "\x03":
                raise typer.Abort
        typer.echo(key)
        return key == "y"

    compare_on_robot(robot, comparison, words, verdict, time_limit)
    rates = {name or "base": rate for name, rate in comparison.rates().items()}
    if as_json:
        named = {name: rate.to_json() for name, rate in rates.items()}
        typer.echo(json.dumps({"seed": comparison.seed, **named}))
    else:
        typer.echo(f"seed of the order: {comparison.seed}")
        for name, rate in rates.items():
            typer.echo(f"{name}: {rate}")


def loop(
    base: Annotated[
        str, typer.Option(help="Checkpoint to start from; default: the small one in the package.")
    ] = SMALL_BASE,
    task: Annotated[str, typer.Option(help="A task that the base was not trained on.")] = "lift_purple",
    demonstrations: Annotated[int, typer.Option(help="Number of expert demonstrations.")] = 40,
    steps: Annotated[int, typer.Option(help="Optimizer steps of fine-tuning.")] = 600,
    batch_size: Annotated[int, typer.Option(help="Examples per step.")] = 32,
    corrections: Annotated[
        int, typer.Option(help="Episodes of the new policy in which the expert takes over when needed.")
    ] = 10,
    trials: Annotated[int, typer.Option(help="Fresh scenes before and after, in one process.")] = 100,
    live_trials: Annotated[int, typer.Option(help="Fresh scenes before and after, through the nodes.")] = 20,
    robot: Annotated[str, typer.Option(help="A simulated robot.")] = "sim_widowx",
    output: Annotated[Path | None, typer.Option(help="Output folder; default: a new one in runs/.")] = None,
) -> None:
    """Close the loop: demonstrate, fine-tune, swap the adapter into the running robot, measure the gain.

    A scripted expert stands in for the demonstrator; it knows where things are, the model does not. The
    last line of output is one JSON object.

    Examples:
      openvla loop --task lift_purple --output runs/loop

      openvla loop --demonstrations 10 --steps 100 --trials 20 --live-trials 5 --corrections 0
    """
    from openvla_ros.programs.learning_loop import LearningLoop, LoopRequest

    folder = output or Path("runs") / f"loop-{datetime.now():%Y%m%d-%H%M%S}"
    request = LoopRequest(
        base=base,
        task=task,
        demonstrations=demonstrations,
        steps=steps,
        batch_size=batch_size,
        corrections=corrections,
        trials=trials,
        live_trials=live_trials,
        robot=robot,
        folder=folder,
    )
    result = LearningLoop(request, printer(progress_console())).run()
    typer.echo(json.dumps(result))

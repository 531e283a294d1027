"""Every verb explains itself: ``-h``, examples that the real parser takes, ``-v`` and ``-q``, the version."""

import re
import shlex

import pytest
import typer
from rich.text import Text
from support.shared_data import REPOSITORY
from typer.testing import CliRunner

from openvla_ros import __version__
from openvla_ros.cli.program import app
from openvla_ros.cli.verbosity import Verbosity, progress_console, shown_steps, verbosity, with_verbosity

PROGRAM = typer.main.get_command(app)
VERBS = sorted(PROGRAM.commands)
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])


def calls(text):
    """Return the arguments of each call of ``openvla`` in lines of shell."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"\$\(openvla share\)", "SHARE", line)
        for part in re.split(r"[|;]|&&|&\s*(?:#|$)", line):
            words = shlex.split(part, comments=True) if "openvla " in part else []
            if "openvla" in words:
                found.append(words[words.index("openvla") + 1 :])
    return found


def parse(arguments):
    """Parse as the program would, without running the verb; raises what it would print."""
    context = PROGRAM.make_context("openvla", list(arguments))
    name, verb, rest = PROGRAM.resolve_command(context, list(arguments))
    return verb.make_context(name, rest, parent=context)


def examples(verb):
    text = PROGRAM.commands[verb].help
    assert "Example" in text, f"openvla {verb} --help has no example"
    return calls(text.partition("Example")[2])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_examples_that_its_parser_takes(verb):
    found = examples(verb)
    if verb == "share":
        assert "$(openvla share)" in PROGRAM.commands[verb].help
        return
    assert found
    for arguments in found:
        assert arguments[0] == verb
        parse(arguments)


def test_a_wrong_example_would_be_found():
    for wrong in (
        ["tell"],
        ["tell", "lift", "--no-such-option"],
        ["lift"],
        ["convert", "a", "b", "--to", "csv"],
    ):
        with pytest.raises(Exception, match=r"Missing|No such|not one of") as caught:
            parse(wrong)
        assert type(caught.value).__name__ in (
            "MissingParameter",
            "NoSuchOption",
            "UsageError",
            "BadParameter",
        )


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(REPOSITORY)) for page in PAGES])
def test_the_commands_in_the_documentation_are_parsed(page):
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL):
        for arguments in calls(block):
            parse(arguments)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_shows_the_common_options(verb, option):
    result = CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1"}).invoke(app, [verb, option])
    assert result.exit_code == 0
    for name in ("-v", "-q", "-h"):
        assert re.search(rf"{name}\b", result.output), result.output


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_shown_as_written(verb):
    """Nothing in brackets is taken for a style: a name such as openvla_ros[view] would lose its end."""
    command = PROGRAM.commands[verb]
    texts = [command.help or "", *(getattr(option, "help", "") or "" for option in command.params)]
    assert [Text.from_markup(text).plain for text in texts] == texts


def test_the_program_s_help_says_where_the_logs_are_and_the_version_is_the_package_s():
    run = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke
    assert "ROS_LOG_DIR" in run(app, ["-h"]).output
    assert run(app, ["--version"]).output == f"openvla_ros {__version__}\n"


def test_the_verbosity_is_the_verb_s_own_and_over_with_it():
    seen = []
    small = typer.Typer()
    small.command()(with_verbosity(lambda: seen.append(verbosity())))
    for arguments in ([], ["-v"], ["-q"], ["--quiet"]):
        assert CliRunner().invoke(small, arguments).exit_code == 0
    assert seen == [Verbosity.NORMAL, Verbosity.VERBOSE, Verbosity.QUIET, Verbosity.QUIET]
    assert verbosity() is Verbosity.NORMAL
    assert CliRunner().invoke(small, ["-q", "-v"]).exit_code == 2
    assert len(seen) == 4


def lines_of_steps(*options):
    """Return what is printed of five steps, away from a terminal."""

    def work() -> None:
        with shown_steps(progress_console()) as steps:
            for step, verdict in enumerate(("waiting", "ok", "table", "table", "ok"), 1):
                steps(step, verdict)

    small = typer.Typer()
    small.command()(with_verbosity(work))
    result = CliRunner().invoke(small, options)
    assert result.exit_code == 0
    return [line.split() for line in result.output.splitlines()]


def test_away_from_a_terminal_only_unusual_steps_get_a_line():
    assert lines_of_steps() == [["step", "3", "table"]]
    assert lines_of_steps("-q") == []
    assert [line[1] for line in lines_of_steps("-v")] == ["1", "2", "3", "4", "5"]

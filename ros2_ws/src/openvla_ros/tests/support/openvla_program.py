"""The program openvla, called within the process of the test."""

from typer.testing import CliRunner

from openvla_ros.cli.program import app


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result

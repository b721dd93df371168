"""The command line: generated files are checked, options are fields of the configurations, mistakes are one sentence."""

import dataclasses
import sys
from pathlib import Path
from subprocess import run

import click
import pytest
from click.testing import CliRunner

from weir import cli
from weir.api import crd
from weir.controller.config import OperatorConfig
from weir.gateway.config import GatewayConfig


def weir(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.main, arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize(("command", "config"), [(cli.operator, OperatorConfig), (cli.gateway, GatewayConfig)])
def test_every_option_is_a_field_of_the_configuration(command: click.Command, config: type) -> None:
    fields = {field.name for field in dataclasses.fields(config) if field.init}
    assert {parameter.name for parameter in command.params} <= fields


def test_the_gateway_never_loads_kopf() -> None:
    code = "import sys, weir.cli, weir.gateway.app; sys.exit('kopf' in sys.modules)"
    assert run([sys.executable, "-c", code]).returncode == 0


def test_crds_are_printed_written_and_checked(tmp_path: Path) -> None:
    code, printed = weir("crds")
    assert code == 0
    assert printed.count("kind: CustomResourceDefinition") == len(crd.KINDS)
    target = ["crds", "--output-dir", str(tmp_path / "crds"), "--reference", str(tmp_path / "api.md")]
    assert weir(*target) == (0, "")
    assert weir(*target, "--check") == (0, "")
    (tmp_path / "api.md").write_text("edited")
    code, said = weir(*target, "--check")
    assert code == 1
    assert "api.md; run `make generate`" in said


@pytest.mark.parametrize("arguments", [["no-such-command"], ["gateway", "--port", "http"], ["simulate"]])
def test_bad_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert weir(*arguments)[0] == 2

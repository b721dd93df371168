"""The documents: links lead somewhere, commands exist, and objects in them are what the API server accepts."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane import ControlPlane
from weir.api.crd import KINDS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(p for part in ("docs", "charts", "hack") for p in (ROOT / part).rglob("*.md"))])
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
PLURALS = {kind.model.kind_name: kind.plural for kind in KINDS}


def ours() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every whole object of our kinds in a YAML block of a page, with an id."""
    for page in PAGES:
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for obj in yaml.safe_load_all(block):
                if isinstance(obj, dict) and obj.get("kind") in PLURALS:
                    yield f"{page.relative_to(ROOT)}:{obj['kind']}/{obj['metadata']['name']}", obj


OBJECTS = dict(ours())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = set(re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", page.read_text(), re.MULTILINE))
    assert {name for pair in told for name in pair if name} <= targets


def test_the_readme_lists_every_make_command_that_make_lists() -> None:
    listed = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)) - {"help"}
    assert listed <= set(re.findall(r"^\| `make ([a-z-]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE))


@pytest.mark.parametrize("obj", OBJECTS.values(), ids=OBJECTS)
def test_objects_are_accepted(
    control_plane: ControlPlane, crds_installed: None, namespace: str, obj: dict[str, Any]
) -> None:
    path = f"/apis/weir.dev/v1alpha1/namespaces/{namespace}/{PLURALS[obj['kind']]}?dryRun=All&fieldValidation=Strict"
    assert control_plane.api.request("POST", path, obj)["kind"] == obj["kind"]


def test_every_decision_is_listed() -> None:
    index = (ROOT / "docs/adr/README.md").read_text()
    for page in sorted((ROOT / "docs/adr").glob("0*.md")):
        number, title = page.name[:4], page.read_text().splitlines()[0].removeprefix("# ")
        assert f"[{number}]({page.name})" in index
        assert title.startswith(f"{number}: ")
        assert title.removeprefix(f"{number}: ") in index

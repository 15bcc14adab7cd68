"""What the registry publishes: valid, complete, and nothing that does not run."""

import ast
import re
import sys
import urllib.parse
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from load_pack import load_pack
from packaging.utils import canonicalize_name

from front_door.packing import comfy
from front_door.requirements_text import names, requirements
from host.checkout import PACK
from host.server import SHIPPED as COPIED_BY_HOST_TESTS

CODE = {"__init__.py", "klein", "kernels", "nodes", "remote"}
READ_BY_THE_HOST = {"pyproject.toml", "requirements.txt", "workflows", "subgraphs", "locales"}
READ_BY_PEOPLE = {"README.md", "CHANGELOG.md", "LICENSE", "docs"}
WORKSHOP = {"CONTRIBUTING.md", "benchmarks/README.md"}  # of the whole tree, as the README says there
SHIPPED = CODE | READ_BY_THE_HOST | READ_BY_PEOPLE
SUFFIXES = {".js", ".py", ".md", ".json", ".jpg", ".png", ".toml", ".txt", ""}

OPTIONAL = {"triton"}


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_registry_finds_nothing_wrong(repository, home):
    pytest.importorskip("comfy_cli", reason="comfy-cli validates the pack; make test installs it")
    answer = comfy(repository, home, "node", "validate")
    said = answer.stdout + answer.stderr
    assert answer.returncode == 0 and "All validation checks passed" in said, said
    assert "warning" not in said.lower(), said


def test_the_archive_holds_what_runs_and_nothing_else(packed):
    there = {name for name in SHIPPED if (PACK / name).exists()}
    assert {path.name for path in packed.iterdir()} == there
    assert there >= {"__init__.py", "klein", "nodes", "remote", "workflows", "pyproject.toml", "requirements.txt"}


def test_every_file_in_it_is_of_a_known_kind(packed):
    odd = [str(path.relative_to(packed)) for path in files(packed) if path.suffix not in SUFFIXES]
    assert not odd


def links(page):
    """What a page shows or leads to inside the pack, relative to its folder."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text)
    return {urllib.parse.unquote(one) for one in found if not one.startswith(("http", "#"))}


def test_what_its_pages_show_and_lead_to_is_in_it(packed):
    pages = [packed / "README.md", *(packed / "docs").glob("*.md")]
    assert len(links(packed / "README.md")) > 20
    lost = {(page.name, one) for page in pages for one in links(page) if not (page.parent / one).exists()}
    assert {one for _, one in lost} <= WORKSHOP


def test_nothing_in_it_is_hidden_or_of_the_workshop(packed):
    parts = {part for path in files(packed) for part in path.relative_to(packed).parts}
    assert not {part for part in parts if part.startswith((".", "test", "conftest", "bench")) or part == "__pycache__"}


def test_the_host_tests_run_what_is_shipped():
    assert set(COPIED_BY_HOST_TESTS) <= SHIPPED
    assert (CODE | READ_BY_THE_HOST) - {"requirements.txt"} <= set(COPIED_BY_HOST_TESTS)


def imports(path: Path, root: Path) -> set[str]:
    """Dotted names a file imports; its own pack's are spelled with a leading dot from the pack's root."""
    found = set()
    package = path.parent.relative_to(root).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            parts = [*base, *(node.module.split(".") if node.module else [])]
            found |= {".".join(["", *parts])} if node.module else {".".join(["", *parts, a.name]) for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


def every_import(packed):
    return {(path, name) for path in packed.rglob("*.py") for name in imports(path, packed)}


def test_every_module_it_imports_of_itself_is_inside(packed):
    own = {(path, name) for path, name in every_import(packed) if name.startswith(".")}
    assert len(own) > 20
    for path, name in own:
        module = packed.joinpath(*name[1:].split("."))
        found = module.with_suffix(".py").is_file() or (module / "__init__.py").is_file()
        assert found, f"{path.relative_to(packed)} imports {name}, which is not in the archive"


def test_every_other_module_is_the_hosts_or_declared(packed, checkout):
    declared = names(requirements(packed / "requirements.txt") + requirements(checkout / "requirements.txt"))
    provides = packages_distributions()
    host_modules = {path.stem for path in checkout.iterdir() if path.is_dir() or path.suffix == ".py"}
    for path, name in every_import(packed):
        top = name.split(".")[0]
        known = not top or top in sys.stdlib_module_names or top in host_modules | OPTIONAL
        installed_by = {canonicalize_name(one) for one in provides.get(top, [])}
        assert known or declared & installed_by, f"{path.relative_to(packed)} imports {name}"


def test_it_loads_in_the_host(packed, checkout):
    written = re.findall(r'node_id="(\w+)"', "".join(path.read_text() for path in packed.glob("nodes/*.py")))
    assert sorted(load_pack(checkout, packed).nodes) == sorted(written)

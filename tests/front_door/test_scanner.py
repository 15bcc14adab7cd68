"""The registry's security scan, as far as its rules are known, over what is published.

A release with a hit is held back, so the list of hits is kept short, and every one of them is explained here and in
docs/scan.md.
"""

import re
import subprocess
import sys

import pytest

RULES = {
    "runs commands": r"\bsubprocess\b|\bos\.(system|popen|exec\w*|spawn\w*)\b",
    "runs text": r"(?<![\w.])(eval|exec|__import__)\s*\(",
    "imports by name": r"\bimportlib\.import_module\b",
    "reads the environment": r"\bos\.(environ|getenv)\b",
    "base64": r"\bbase64\b",
    "foreign code": r"\bctypes\b",
    "database": r"\.(connect|cursor)\s*\(",
    "network": r"^\s*(import|from)\s+(urllib\.request|requests|socket|http\.client)\b|from urllib import request",
    "pickles": r"\b(pickle|marshal)\.loads?\b|\btorch\.load\b",
    "long opaque text": r"[A-Za-z0-9+/=]{200,}",
}
TEXT = {".py", ".js", ".mjs", ".json", ".md", ".toml", ".txt"}
CODE_ONLY = {"runs text", "network"}

# Each hit that stays, by file and rule, with the reason.
EXPLAINED = {
    ("remote/keys.py", "reads the environment"): (
        "SEGMIND_API_KEY and the three SEGMIND_*_URL variables: a key in the environment is in no workflow"
    ),
    ("remote/images.py", "base64"): "Segmind's upload takes a reference image as a data: URL",
    ("remote/lenient_json.py", "base64"): "an answer may carry the picture as base64 text instead of an address",
    ("remote/journal_file.py", "database"): "sqlite3.connect on the local file that records every paid job",
    ("remote/network.py", "network"): (
        "getproxies and proxy_bypass read the system's proxy settings; socket names a constant for the look-up that "
        "refuses private addresses. All traffic itself is httpx's"
    ),
}


def hits(folder):
    for path in sorted(one for one in folder.rglob("*") if one.suffix in TEXT):
        text = path.read_text(encoding="utf-8")
        for rule, pattern in RULES.items():
            if path.suffix in {".py", ".js", ".mjs"} or rule not in CODE_ONLY:
                for found in re.finditer(pattern, text, re.MULTILINE):
                    yield str(path.relative_to(folder)), rule, text.count("\n", 0, found.start()) + 1


def test_every_hit_is_explained(packed):
    unexplained = [f"{path}:{line} {rule}" for path, rule, line in hits(packed) if (path, rule) not in EXPLAINED]
    assert not unexplained, "\n".join(["Avoid these or explain them in EXPLAINED and in docs/scan.md:", *unexplained])


def test_no_explanation_outlives_its_hit(packed):
    found = {(path, rule) for path, rule, _ in hits(packed)}
    assert set(EXPLAINED) - found == set()


def test_its_page_explains_each(packed):
    page = (packed / "docs" / "scan.md").read_text(encoding="utf-8")
    assert [path for path, _ in EXPLAINED if f"`{path}`" not in page] == []


def ruff(folder):
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "S102,S307,E702"]
    return subprocess.run([*command, "."], cwd=folder, capture_output=True, text=True)


def test_the_linters_security_rules_hold(packed):
    """comfy-cli only warns of these; the registry announced that it will refuse them."""
    answer = ruff(packed)
    assert answer.returncode == 0, answer.stdout


SAMPLES = {
    "runs commands": "import subprocess",
    "runs text": "value = eval(text)",
    "imports by name": "importlib.import_module(name)",
    "reads the environment": "os.environ.get('HOME')",
    "base64": "import base64",
    "foreign code": "import ctypes",
    "database": "sqlite3.connect(path)",
    "network": "import socket",
    "pickles": "torch.load(path)",
    "long opaque text": "x = '" + "QUJD" * 60 + "'",
}


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_sees_its_like(tmp_path, rule):
    (tmp_path / "code.py").write_text(SAMPLES[rule] + "\n")
    assert (rule, 1) in {(found, line) for _, found, line in hits(tmp_path)}


@pytest.mark.parametrize("line", ["exec('1')", "eval('1')", "a = 1; b = 2"])
def test_the_linter_sees_its_like(tmp_path, line):
    (tmp_path / "code.py").write_text(line + "\n")
    assert ruff(tmp_path).returncode == 1

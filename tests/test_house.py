"""The house rules that a machine can read: style, types, which way imports point, what loading may do."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from load_pack import load_pack
from typecheck import typecheck

from host.checkout import PACK
from host.inner_names import bound_too_early

PACKAGES = [PACK / name for name in ("klein", "kernels", "nodes", "remote") if (PACK / name).is_dir()]
FILES = [PACK / "__init__.py", *sorted(path for package in PACKAGES for path in package.rglob("*.py"))]

HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "node_helpers", "nodes", "server"}
FORBIDDEN = {
    "klein": HOST | {"klein9b.remote", "klein9b.nodes", "httpx"},
    "kernels": HOST | {"klein9b.remote", "klein9b.nodes", "klein9b.klein"},
    "remote": HOST | {"klein9b.klein", "klein9b.kernels", "klein9b.nodes", "torch", "safetensors"},
    "nodes": {"httpx"},
}
KERNEL_LIBRARIES = {"torch", "triton", "comfy_kitchen"}
MOST_LINES = 500
# Processor seconds; measured 0.03 to 0.1. A slow import delays every start of ComfyUI, klein graph or not.
MOST_SECONDS = 0.5


def name_of(path):
    return str(path.relative_to(PACK))


def imported(path, root=PACK):
    """Every module a file imports, in functions too, as a dotted name; the pack's own start with klein9b."""
    package = ("klein9b", *path.parent.relative_to(root).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def reaches(name, module):
    return name == module or name.startswith(module + ".")


def upward(path, package, root=PACK):
    """The imports in a file of a package that point where that package may not look."""
    return [name for name in imported(path, root) if any(reaches(name, one) for one in FORBIDDEN[package])]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_imports_point_down(package):
    for path in package.rglob("*.py"):
        wrong = upward(path, package.name)
        assert not wrong, f"{name_of(path)} imports {', '.join(wrong)}"


def test_kernels_know_torch_triton_and_kitchen_only():
    for path in (PACK / "kernels").rglob("*.py"):
        for name in imported(path):
            top = name.split(".")[0]
            known = top in KERNEL_LIBRARIES | sys.stdlib_module_names or reaches(name, "klein9b.kernels")
            assert known, f"{name_of(path)} imports {name}"


def test_triton_is_imported_by_its_own_kernels_alone():
    for path in FILES:
        if (PACK / "kernels" / "triton") not in path.parents:
            wrong = [name for name in imported(path) if re.search(r"(^|\.)triton(\.|$)", name)]
            assert not wrong, f"{name_of(path)} imports {', '.join(wrong)}"


def behind_the_face(path, root=PACK):
    """What a file imports of remote/ other than its one face, service."""
    names = [name for name in imported(path, root) if reaches(name, "klein9b.remote")]
    return [name for name in names if not reaches(name, "klein9b.remote.service")]


def test_the_nodes_know_one_module_of_remote():
    users = [
        path for path in (PACK / "nodes").rglob("*.py") if any("klein9b.remote" in name for name in imported(path))
    ]
    assert users
    for path in users:
        assert not behind_the_face(path), f"{name_of(path)} imports {', '.join(behind_the_face(path))}"


@pytest.mark.parametrize(
    "line", ["from ..remote.keys import Key", "from ..remote import jobs", "from .. import remote"]
)
def test_an_import_behind_the_face_would_be_seen(tmp_path, line):
    path = tmp_path / "nodes" / "module.py"
    path.parent.mkdir()
    path.write_text(f"from ..remote import service\n{line}\n")
    assert len(behind_the_face(path, tmp_path)) == 1


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("klein", "import comfy.sd"),
        ("klein", "from ..remote.keys import Key"),
        ("klein", "from .. import remote"),
        ("remote", "from torch import Tensor"),
        ("remote", "from ..klein import schedule"),
        ("remote", "def later():\n    import folder_paths"),
    ],
)
def test_an_import_upward_would_be_seen(tmp_path, package, line):
    path = tmp_path / package / "module.py"
    path.parent.mkdir()
    path.write_text(line)
    assert upward(path, package, tmp_path)


def test_the_hosts_inner_parts_are_bound_when_a_feature_runs():
    for path in (PACK / "nodes").rglob("*.py"):
        assert not bound_too_early(path.read_text()), name_of(path)


@pytest.mark.parametrize(
    ("code", "early"),
    [
        ("import comfy.sd", True),
        ("from comfy.ops import cast_bias_weight", True),
        ("from comfy_api.latest import io", True),
        ("try:\n    import node_helpers\nexcept ImportError:\n    pass", True),
        ("class Node:\n    import server", True),
        ("def run():\n    from comfy.sd import VAE", True),
        ("def run():\n    import comfy.sd", False),
        ("if TYPE_CHECKING:\n    from comfy.sd import VAE", False),
        ("from comfy_api.v0_0_2 import io", False),
        ("import folder_paths", False),
    ],
)
def test_a_name_bound_too_early_would_be_seen(code, early):
    assert bool(bound_too_early(code)) == early


def test_no_test_module_takes_the_hosts_name_before_the_host_is_there():
    """An early ``nodes`` would be the folder of tests, for this whole process."""
    collected = [path for path in (PACK / "tests").rglob("*.py") if re.match(r"test_|conftest", path.name)]
    for path in collected:
        lines = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {getattr(line, "module", None) or line.names[0].name for line in lines}
        assert not [name for name in names if reaches(name, "nodes")], name_of(path)


@pytest.mark.parametrize("path", FILES, ids=name_of)
class TestFile:
    def test_it_is_ascii(self, path):
        assert path.read_bytes().isascii()

    def test_it_fits_a_screenful_of_thought(self, path):
        assert len(path.read_text().splitlines()) <= MOST_LINES

    def test_it_writes_nothing_to_the_console(self, path):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not [one for one in calls if isinstance(one, ast.Name) and one.id == "print"]
        assert not re.search(r"\bsys\.(stdout|stderr)\b", path.read_text())


def is_enum(node):
    return isinstance(node, ast.ClassDef) and "Enum" in {base.id for base in node.bases if isinstance(base, ast.Name)}


def spelled_out(source, states):
    """The states in the text constants of a source, SQL included, but for those of an Enum and in docstrings."""
    tree = ast.parse(source)
    allowed = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    allowed |= {id(inner) for node in ast.walk(tree) if is_enum(node) for inner in ast.walk(node)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    words = [word for text in texts if id(text) not in allowed for word in re.findall(r"\w+", text.value)]
    return [word for word in words if word in states]


def states_of_jobs():
    """The values of the Enums whose members are texts."""
    trees = [ast.parse(path.read_text()) for path in (PACK / "remote").glob("*.py")]
    enums = [node for tree in trees for node in ast.walk(tree) if is_enum(node)]
    values = [line.value for enum in enums for line in enum.body if isinstance(line, ast.Assign)]
    return {value.value for value in values if isinstance(value, ast.Constant)}


@pytest.mark.parametrize("package", ["remote", "nodes"])
def test_a_state_of_a_job_is_spelled_in_its_enum_alone(package):
    states = states_of_jobs()
    assert {"PLANNED", "KEPT", "QUEUED"} <= states
    for path in (PACK / package).rglob("*.py"):
        assert not spelled_out(path.read_text(), states), name_of(path)


def test_a_bare_state_would_be_seen():
    source = 'class State(str, Enum):\n    """KEPT"""\n    KEPT = "KEPT"\nQUERY = "WHERE state = \'KEPT\'"\n'
    assert spelled_out(source, {"KEPT"}) == ["KEPT"]


def test_ruff_is_content():
    answer = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=PACK, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout


def test_mypy_is_content():
    answer = typecheck(PACK)
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize(
    "code",
    ["def half(a: int) -> int:\n    return a / 2\n", "def half(a):\n    return a\n"],
    ids=["a wrong type", "no annotations"],
)
def test_mypy_sees_the_packs_own_types(tmp_path, code):
    (tmp_path / "klein").mkdir()
    (tmp_path / "__init__.py").write_text("from .klein.module import half\n")
    (tmp_path / "klein" / "__init__.py").touch()
    (tmp_path / "klein" / "module.py").write_text(code)
    (tmp_path / "pyproject.toml").write_text((PACK / "pyproject.toml").read_text())
    assert "klein/module.py:" in typecheck(tmp_path).stdout


@pytest.fixture(scope="session")
def loaded(checkout):
    return load_pack(checkout, PACK)


@pytest.mark.host
class TestLoading:
    """In the real host, where any use of the network or of CUDA at import is an error."""

    def test_it_is_quick(self, loaded):
        assert loaded.seconds < MOST_SECONDS

    def test_it_leaves_cuda_alone(self, loaded):
        assert loaded.nodes and not loaded.cuda_initialized

    def test_no_module_holds_a_tensor(self, loaded):
        assert not loaded.tensors

    def test_it_says_nothing(self, loaded):
        assert not loaded.prints


@pytest.mark.host
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("import socket\nsocket.create_connection(('127.0.0.1', 9))", "socket.getaddrinfo at import"),
        ("import torch\ntorch.cuda.current_device()", "CUDA at import"),
    ],
    ids=["network", "cuda"],
)
def test_forbidden_work_at_import_would_be_seen(tmp_path, line, words):
    from load_pack import Forbidden, _forbidding_network_and_cuda, _import_pack

    (tmp_path / "__init__.py").write_text(line)
    with _forbidding_network_and_cuda(), pytest.raises(Forbidden, match=words):
        _import_pack(tmp_path)


def test_the_root_is_an_entrance_and_nothing_else():
    tree = ast.parse((PACK / "__init__.py").read_text())
    names = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
    assert names == {"WEB_DIRECTORY", "__all__"}


def test_no_path_of_a_developers_machine():
    home = re.compile(r"/(root|home|Users)/\w")
    for path in FILES:
        assert not home.search(path.read_text()), name_of(path)
    assert str(Path.home()) not in (PACK / "pyproject.toml").read_text()

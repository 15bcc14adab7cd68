"""Which names of ComfyUI's inner parts the pack uses, read from its sources."""

import ast

from .checkout import PACK

PUBLIC = {"comfy_api.v0_0_2", "folder_paths"}
INNER = {"comfy", "comfy_execution", "comfy_extras", "node_helpers", "nodes", "server"}


def running(body, *, functions=True):
    """The nodes that run, so none under `if TYPE_CHECKING`; without functions, those that run at import."""
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if not functions and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield node
        yield from running(ast.iter_child_nodes(node), functions=functions)


def _imports(nodes):
    """(module, the statement) of every absolute import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module, node


def _top(module):
    return module.partition(".")[0]


def bound_too_early(source: str) -> list[str]:
    """Imports of what is not public when the module is imported, and `from` imports of it anywhere.

    The second kind binds a name whose absence could not be told in full.
    """
    body = ast.parse(source).body
    at_import = _imports(running(body, functions=False))
    early = [node for name, node in at_import if _top(name) in INNER | {"comfy_api"} and name not in PUBLIC]
    torn = [node for name, node in _imports(running(body)) if _top(name) in INNER and isinstance(node, ast.ImportFrom)]
    return [ast.unparse(node) for node in (*early, *torn)]


def _inner_modules(nodes):
    """{local name: the inner module it stands for}."""
    aliases = [alias for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    inner = [alias for alias in aliases if _top(alias.name) in INNER]
    return {alias.asname or _top(alias.name): alias.name if alias.asname else _top(alias.name) for alias in inner}


def inner_names(source: str) -> set[str]:
    """The longest dotted names that it uses of inner modules, such as comfy.sd.CLIPType.FLUX2."""
    nodes = list(running(ast.parse(source).body))
    modules, found, parts = _inner_modules(nodes), set(), set()
    for node in (node for node in nodes if isinstance(node, ast.Attribute) and node not in parts):
        root, _, rest = ast.unparse(node).partition(".")
        if root in modules and rest.replace(".", "").isidentifier():
            found.add(f"{modules[root]}.{rest}")
            parts |= set(ast.walk(node))
    return found


def all_inner_names() -> set[str]:
    return set().union(*(inner_names(path.read_text()) for path in (PACK / "nodes").rglob("*.py")))

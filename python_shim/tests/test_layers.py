"""The layers of the package, as its docstring lists them: no module imports upwards, and there is no circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import zoocache


def layers(docstring):
    """The lines of its last block, each as the names that are in it."""
    lines = docstring.rstrip().split("\n")
    first = max(n for n, line in enumerate(lines) if not line.startswith("    ")) + 1
    return [line.split() for line in lines[first:]]


def names(package):
    """The modules by their names inside of the package, which itself is ''."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def for_types(node):
    test = node.test if isinstance(node, ast.If) else None
    return getattr(test, "id", getattr(test, "attr", None)) == "TYPE_CHECKING"


def statements(node):
    """What is in it, at any depth, but for what is there for types alone."""
    for child in node.orelse if for_types(node) else ast.iter_child_nodes(node):
        yield child
        yield from statements(child)


def targets(node, home):
    """The dotted names that a statement, or a call, in a module of the package ``home`` imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = home.split(".")[: -node.level + 1 or None] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = getattr(node.func, "id", getattr(node.func, "attr", None))
        return [node.args[0].value] if function in ("import_module", "__import__") else []
    return []


def graph(package):
    """Which modules each module imports."""
    known = names(package)
    root = package.name
    found = {}
    for name, path in known.items():
        parts = [root, *name.split(".")] if name else [root]
        home = ".".join(parts if path.name == "__init__.py" else parts[:-1])
        found[name] = set()
        for node in statements(ast.parse(path.read_text("utf-8"))):
            for target in targets(node, home):
                first, _, inner = target.partition(".")
                while inner and inner not in known:  # a name in a module
                    inner = inner.rpartition(".")[0]
                if first == root:
                    found[name].add(inner)
    return found


def faults(package, lines):
    """What the modules of a package do that these layers forbid."""
    level = {name: n for n, line in enumerate(lines) for name in line}
    level[""] = len(lines)  # the package itself
    imports = graph(package)
    found = []
    for name, others in sorted(imports.items()):
        unit = name.partition(".")[0]
        if unit not in level:
            found.append(f"{name} is in no layer")
            continue
        for other in sorted(others):
            above = other.partition(".")[0]
            if above != unit and level.get(above, -1) >= level[unit]:
                found.append(f"{name} imports {other or 'the package'}, which is not below it")
    found += [f"{name} is no module" for name in sorted(level.keys() - imports.keys())]
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        found.append("a circle: " + ", ".join(error.args[1]))
    return found


def test_each_module_is_in_its_layer():
    package = Path(zoocache.__file__).parent
    imports = graph(package)
    assert {"_table", "_fills"} <= imports["_functions"]  # at the top of a module
    assert "_names" in imports["_table"]  # in a function
    assert faults(package, layers(zoocache.__doc__)) == []


LINES = [["low", "other"], ["high", "sub"], ["top"]]
GOOD = {
    "__init__": "from pack.top import f",
    "low": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.top import f\nelse:\n    f = None",
    "other": "",
    "high": "from pack import low\ndef f():\n    import pack.other",
    "sub/__init__": "from pack.sub.one import f",
    "sub/one": "from ..low import f",
    "top": "from . import high",
}


@pytest.mark.parametrize(
    ("module", "text", "complaint"),
    [
        ("top", "", None),
        ("low", "from pack.high import f", "low imports high, which is not below it"),
        ("low", "import pack.sub.one", "low imports sub.one, which is not below it"),
        ("low", "from pack.other import f", "low imports other, which is not below it"),
        ("low", "def f():\n    from pack import high", "low imports high, which is not below it"),
        ("low", "def f():\n    from . import f, high", "low imports high, which is not below it"),
        ("low", "from pack import f", "low imports the package, which is not below it"),
        ("low", "if not TYPE_CHECKING:\n    import pack.top", "low imports top, which is not below it"),
        ("low", "import importlib\nimportlib.import_module('pack.top')", "low imports top, which is not below it"),
        ("sub/one", "def f():\n    from . import g", "a circle: "),
        ("sub/one", "from ..top import f", "sub.one imports top, which is not below it"),
        ("new", "", "new is in no layer"),
        ("sub/new", "from pack.sub import one", None),
        ("high", None, "high is no module"),
    ],
)
def test_what_the_layers_forbid_is_found(tmp_path, module, text, complaint):
    for name, source in {**GOOD, module: text}.items():
        path = tmp_path / "pack" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        if source is not None:
            path.write_text(source)
    found = faults(tmp_path / "pack", LINES)
    if complaint is None:
        assert found == []
    else:
        assert any(line.startswith(complaint) for line in found), found


def test_the_layers_are_the_last_block_of_a_text():
    assert layers("Doc.\n\n    code()\n\nLayers:\n\n    a  b\n    c\n") == [["a", "b"], ["c"]]

"""The floors of the package: a module imports its own room and rooms on lower floors, never upward."""

import ast
from pathlib import Path

import pytest

import lightning_scaling

PACKAGE = Path(lightning_scaling.__file__).parent
FLOORS = (
    ("_utils",),
    ("schedule", "compute"),
    ("runs", "laws"),
    ("forecast", "detection", "allocation"),
    ("advice",),
    ("engine", "tracking"),
    ("backtest", "history", "report"),
    ("callbacks", "cli"),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS, 1) for room in rooms}
# The one import upward, made when it is asked for: constructors of records that read what a tracker or a journal holds.
LAZY_UPWARD = {
    ("runs/run.py", "lightning_scaling.history"),
    ("runs/run.py", "lightning_scaling.tracking"),
    ("runs/history.py", "lightning_scaling.history"),
}
LIBRARIES = {
    "lightning": {"callbacks"},
    "pytorch_lightning": {"callbacks"},
    "lightning_fabric": {"callbacks"},
    "mlflow": {"tracking", "history"},
    "plotly": {"report"},
    "matplotlib": {"report"},
    "torch": {"compute", "schedule", "callbacks"},
    "click": {"cli"},
    "rich": {"cli"},
}
BELOW_TORCH = ("laws", "forecast", "detection", "allocation")


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_import_of_a_literal(call):
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    return name == "import_module" and bool(call.args) and isinstance(call.args[0], ast.Constant)


def imported(path):
    """Names of everything a module imports, by statement or through ``import_module`` with a literal name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Call) and is_import_of_a_literal(node):
            yield node.args[0].value


def upward(path, names):
    """Imports of a module that break the floor table."""
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1:
        return []
    room, found = parts[0], []
    for name in names:
        target = name.split(".")
        if target[0] != "lightning_scaling" or len(target) < 2 or target[1] not in LEVEL:
            continue
        if target[1] == room or LEVEL[target[1]] < LEVEL[room]:
            continue
        if ("/".join(parts), ".".join(target[:2])) not in LAZY_UPWARD:
            found.append(f"{'/'.join(parts)} imports {name}")
    return sorted(set(found))


def cycles(edges):
    """Groups of files that import each other in a circle, by Tarjan's algorithm without recursion limits in mind."""
    index, low, stack, on_stack, groups = {}, {}, [], set(), []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        on_stack.add(node)
        for target in edges.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in on_stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = []
            while True:
                member = stack.pop()
                on_stack.discard(member)
                group.append(member)
                if member == node:
                    break
            if len(group) > 1:
                groups.append(sorted(group))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return groups


def file_edges():
    paths = {name_of(path): path for path in modules()}
    edges = {}
    for name, path in paths.items():
        own = path.relative_to(PACKAGE).parts
        targets = set()
        for other in imported(path):
            if other in paths and other != name:
                lazy = ("/".join(own), ".".join(other.split(".")[:2])) in LAZY_UPWARD
                package_of_its_own = paths[other].name == "__init__.py" and name.startswith(f"{other}.")
                if not lazy and not package_of_its_own:
                    targets.add(other)
        edges[name] = targets
    return edges


def test_the_root_of_the_package_holds_rooms_only():
    files = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert files == {"__init__.py", "py.typed"}
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(LEVEL)


def test_there_are_at_most_eight_floors():
    assert len(FLOORS) <= 8


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_upward(path):
    assert upward(path, imported(path)) == []


def test_no_files_import_each_other_in_a_circle():
    assert cycles(file_edges()) == []


def test_libraries_are_imported_only_in_the_rooms_made_for_them():
    found = []
    for path in modules():
        parts = path.relative_to(PACKAGE).parts
        for name in imported(path):
            rooms = LIBRARIES.get(name.split(".")[0])
            if rooms is not None and parts[0] not in rooms:
                found.append(f"{'/'.join(parts)} imports {name}")
    assert found == []


def test_an_import_upward_is_found_when_one_is_put_in():
    path = PACKAGE / "laws" / "base.py"
    assert upward(path, ["lightning_scaling.forecast.result"]) == [
        "laws/base.py imports lightning_scaling.forecast.result"
    ]
    assert upward(path, ["lightning_scaling.schedule.plan"]) == []


def test_a_circle_is_found_when_one_is_put_in():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert cycles(edges) == [["a", "b", "c"]]

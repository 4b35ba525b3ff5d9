import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import lightning_scaling
from lightning_scaling.cli import main

ROOT = Path(__file__).parents[1]
PACKAGE = Path(lightning_scaling.__file__).parent
HEAVY = {"torch", "lightning", "pytorch_lightning", "mlflow", "matplotlib", "plotly", "pandas", "rich"}
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOOR = {
    "run": 1,
    "curve": 1,
    "recording": 1,
    "pending": 1,
    "outcome": 1,
    "cadence": 1,
    "fitting": 1,
    "laws": 1,
    "schedule": 1,
    "compute": 1,
    "forecast": 2,
    "deviation": 2,
    "advice": 2,
    "allocation": 2,
    "ledger": 3,
    "measure": 3,
    "teaching": 3,
    "watching": 3,
    "update": 3,
    "monitor": 3,
    "replay": 3,
    "replay_many": 3,
    "replaying": 3,
    "tracking": 4,
    "history": 4,
    "report": 4,
    "callbacks": 5,
    "cli": 5,
}
ONLY_THERE = {
    "lightning": {"callbacks"},
    "pytorch_lightning": {"callbacks"},
    "lightning_fabric": {"callbacks"},
    "mlflow": {"tracking", "history", "callbacks"},
    "matplotlib": {"report"},
    "plotly": {"report"},
    "pandas": {"cli"},
    "click": {"cli"},
    "torch": {"compute", "schedule", "callbacks"},
}


def room_of(module):
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(module):
    tree = ast.parse(module.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            yield node.module


def loaded_by(code):
    report = f"import sys\n{code}\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import lightning_scaling; lightning_scaling.backtest.single_run, lightning_scaling.Run") == set()


def test_the_help_of_every_command_loads_nothing_heavy():
    code = (
        "from click.testing import CliRunner\n"
        "from lightning_scaling.cli import main\n"
        "for name in [None, *main.commands]:\n"
        "    assert CliRunner().invoke(main, [*([name] if name else []), '--help']).exit_code == 0\n"
    )
    assert loaded_by(code) == set()


def test_the_public_names_are_there():
    for name in ("Run", "RunHistory", "replay", "Update", "__version__"):
        assert name in lightning_scaling.__all__
        assert hasattr(lightning_scaling, name)


def test_the_version_is_the_same_everywhere():
    result = CliRunner().invoke(main, ["--version"])
    assert result.output.strip() == f"lightning-scaling, version {lightning_scaling.__version__}"
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert lightning_scaling.__version__ == declared[1]
    assert f"## [{declared[1]}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_on_its_floor_or_below(module):
    room = room_of(module)
    if room == "__init__":
        return
    assert room in FLOOR, f"{room} has no floor"
    for name in imported(module):
        top, *rest = name.split(".")
        if top == "lightning_scaling" and rest:
            other = rest[0]
            assert other == room or FLOOR[other] <= FLOOR[room], f"{room} imports {other}, which stands above it"
        assert room in ONLY_THERE.get(top, {room}), f"{room} imports {top}"


def test_the_root_link_leads_to_the_callbacks():
    link = ROOT / "callbacks"
    assert link.is_symlink()
    assert link.resolve() == PACKAGE / "callbacks"


def test_every_file_that_the_readme_names_is_there():
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} names {target}"

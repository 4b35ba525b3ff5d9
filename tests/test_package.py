import re
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

import lightning_scaling
from lightning_scaling.cli import main

ROOT = Path(__file__).parents[1]
PACKAGE = Path(lightning_scaling.__file__).parent
HEAVY = {"torch", "lightning", "pytorch_lightning", "mlflow", "matplotlib", "plotly", "pandas", "rich"}


def loaded_by(code):
    report = f"import sys\n{code}\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import lightning_scaling; lightning_scaling.replay, lightning_scaling.Run") == set()


def test_the_help_of_every_command_loads_nothing_heavy():
    code = (
        "from click.testing import CliRunner\n"
        "from lightning_scaling.cli import main\n"
        "for name in [None, *main.commands]:\n"
        "    assert CliRunner().invoke(main, [*([name] if name else []), '--help']).exit_code == 0\n"
    )
    assert loaded_by(code) == set()


def test_the_version_is_the_same_everywhere():
    result = CliRunner().invoke(main, ["--version"])
    assert result.output.strip() == f"lightning-scaling, version {lightning_scaling.__version__}"
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert lightning_scaling.__version__ == declared[1]
    assert f"## [{declared[1]}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_root_link_leads_to_the_callbacks():
    link = ROOT / "callbacks"
    assert link.is_symlink()
    assert link.resolve() == PACKAGE / "callbacks"


def test_every_file_that_the_readme_names_is_there():
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} names {target}"

"""The examples in the docstrings run, and module docstrings say what is in the room."""

import ast
import doctest
import importlib
import re
from pathlib import Path

import pytest

import lightning_scaling

PACKAGE = Path(lightning_scaling.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [module_name(path) for path in MODULES if ">>>" in path.read_text(encoding="utf-8")], ids=str
)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_docstring_names_what_is_in_the_module(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert not re.match(r"(What|Where|How|When|Whom|Who|Why|Whether)\b", docstring)
    assert not docstring.split("\n")[0].endswith("?")

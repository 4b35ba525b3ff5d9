"""The public names and their signatures, as written down in ``tests/public_names.txt``.

After a change made on purpose: ``python tests/test_public_names.py > tests/public_names.txt``.
"""

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import lightning_scaling

WRITTEN = Path(__file__).with_name("public_names.txt")
PUBLIC = (
    "lightning_scaling",
    "lightning_scaling.laws",
    "lightning_scaling.callbacks",
    "lightning_scaling.compute",
    "lightning_scaling.schedule",
    "lightning_scaling.forecast",
    "lightning_scaling.detection",
    "lightning_scaling.advice",
    "lightning_scaling.allocation",
    "lightning_scaling.backtest",
    "lightning_scaling.runs",
    "lightning_scaling.engine",
    "lightning_scaling.history",
    "lightning_scaling.tracking",
)


def signature(value):
    """Names and kinds of the arguments and their defaults; annotations and addresses are left out."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return ""
    shown = []
    for parameter in parameters:
        text = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "") + parameter.name
        if parameter.kind is parameter.KEYWORD_ONLY and not any(part.startswith("*") for part in shown):
            shown.append("*")
        if parameter.default is not parameter.empty:
            default = parameter.default
            simple = default is None or isinstance(default, bool | int | float | str | tuple)
            text += f"={default!r}" if simple else "=..."
        shown.append(text)
    return f"({', '.join(shown)})"


def public_names():
    lines = []
    for module_name in PUBLIC:
        module = importlib.import_module(module_name)
        for name in sorted(module.__all__):
            value = getattr(module, name)
            lines.append(f"{module_name}.{name}{signature(value) if callable(value) else ''}")
            if inspect.isclass(value) and value.__module__.startswith("lightning_scaling"):
                for attribute, member in sorted(vars(value).items()):
                    if attribute.startswith("_"):
                        continue
                    if isinstance(member, property):
                        lines.append(f"{module_name}.{name}.{attribute}")
                    elif callable(member) or isinstance(member, classmethod | staticmethod):
                        lines.append(f"{module_name}.{name}.{attribute}{signature(getattr(value, attribute))}")
    return lines


def test_the_public_names_are_those_written_down():
    assert public_names() == WRITTEN.read_text(encoding="utf-8").splitlines()


def test_the_package_offers_what_its_users_get_back():
    wanted = {
        "Advice",
        "Deviation",
        "Forecast",
        "Monitor",
        "Plan",
        "Run",
        "RunHistory",
        "Update",
        "allocate",
        "laws",
        "replay",
    }
    assert wanted <= set(lightning_scaling.__all__)


def test_no_module_is_hidden_by_a_function_of_its_name():
    hidden = []
    for found in pkgutil.walk_packages(lightning_scaling.__path__, "lightning_scaling."):
        package, _, leaf = found.name.rpartition(".")
        importlib.import_module(found.name)
        if not isinstance(getattr(importlib.import_module(package), leaf), ModuleType):
            hidden.append(found.name)
    assert hidden == []


if __name__ == "__main__":
    print(*public_names(), sep="\n")

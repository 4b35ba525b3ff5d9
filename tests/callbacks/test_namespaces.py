"""Both of Lightning's names: together, either one alone, and from a LightningCLI YAML file."""

import subprocess
import sys
import textwrap
from importlib import import_module

import pytest

from lightning_scaling.callbacks import ScalingLawMonitor

ALONE = """
    import importlib, sys, warnings

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == {blocked!r}:
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, Blocker())
    warnings.simplefilter("ignore")
    pl = importlib.import_module({used!r})
    import torch
    from lightning_scaling.callbacks import ScalingLawMonitor

    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(4, 1)
        def training_step(self, batch, batch_idx):
            return self.net(batch).square().mean()
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    monitor = ScalingLawMonitor(journal=False, max_overhead=1)
    trainer = pl.Trainer(max_epochs=1, callbacks=monitor, logger=False, enable_checkpointing=False, accelerator="cpu",
                         enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(Model(), torch.utils.data.DataLoader(torch.randn(40, 4), batch_size=4))
    assert len(monitor.run) == 10, monitor.run
    assert {blocked!r} not in sys.modules
    modules = [base.__module__.split(".")[0] for base in type(monitor).__mro__[:-1]]
    bases = [name for name in modules if name != "lightning_scaling"]
    assert bases == [{used!r}.split(".")[0]], bases
"""


@pytest.mark.parametrize(
    ("used", "blocked"), [("pytorch_lightning", "lightning"), ("lightning.pytorch", "pytorch_lightning")]
)
def test_one_of_them_alone(used, blocked, tmp_path):
    pytest.importorskip(used)
    code = textwrap.dedent(ALONE).format(used=used, blocked=blocked)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


def test_without_lightning_the_error_says_what_to_install(tmp_path):
    code = """
        import sys
        sys.modules["lightning"] = sys.modules["pytorch_lightning"] = None
        import lightning_scaling.callbacks
        try:
            lightning_scaling.callbacks.ScalingLawMonitor
        except ImportError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "pip install lightning" in done.stdout


def test_importing_the_package_does_not_import_lightning(tmp_path):
    code = "import sys, lightning_scaling.callbacks; print([m for m in sys.modules if 'lightning' in m.split('.')[0]])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "pytorch_lightning" not in done.stdout
    assert "'lightning'" not in done.stdout


def test_it_is_a_callback_of_both(both):
    assert isinstance(ScalingLawMonitor(), both.Callback)


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


@pytest.mark.parametrize("alone", [True, False])
def test_yaml_of_the_lightning_cli(both, module, tmp_path, alone):
    cli = import_module(f"{both.__name__}.cli")
    entry = """
        class_path: lightning_scaling.callbacks.ScalingLawMonitor
        init_args:
          monitor: val_loss
          alpha: 0.05
          target: 2.5
          on_advice: log
          count: 128
          flops: 1e12
          journal: false
          max_overhead: 0.02
          name: from-yaml
    """
    lines = textwrap.dedent(entry).strip().splitlines()
    indented = [("    " if alone else "      ") + line for line in lines]
    if not alone:
        indented[0] = "    - " + lines[0]
    config = tmp_path / "config.yaml"
    config.write_text("\n".join(["trainer:", "  accelerator: cpu", "  logger: false", "  callbacks:", *indented]))
    made = cli.LightningCLI(
        type(module(both)),
        run=False,
        args=["--config", str(config)],
        save_config_callback=None,
        seed_everything_default=1,
    )
    (monitor,) = (one for one in made.trainer.callbacks if isinstance(one, ScalingLawMonitor))
    assert monitor.state_key == "ScalingLawMonitor{'monitor': 'val_loss'}"


def test_functions_can_be_named_in_yaml(pl, module, tmp_path):
    LightningCLI = import_module(f"{pl.__name__}.cli").LightningCLI
    config = tmp_path / "config.yaml"
    config.write_text(
        "trainer:\n  accelerator: cpu\n  logger: false\n  callbacks:\n    - class_path: "
        "lightning_scaling.callbacks.ScalingLawMonitor\n      init_args:\n        count: builtins.len\n"
        "        on_advice: builtins.print\n"
    )
    made = LightningCLI(type(module(pl)), run=False, args=["--config", str(config)], save_config_callback=None)
    assert any(isinstance(one, ScalingLawMonitor) for one in made.trainer.callbacks)

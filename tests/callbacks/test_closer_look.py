"""A run that looks wrong is looked at again before the next update falls due, while it trains."""

import math

import torch

from lightning_scaling.callbacks import ScalingLawMonitor

STEPS, BROKEN = 2000, 1000


def loss_at(step):
    loss = 2 + 3 * step**-0.5 + 0.003 * math.sin(7.3 * step)
    return loss * (1.04 if step > BROKEN else 1.0)


def test_an_alarm_comes_between_updates_and_without_delay(pl, trainer, loader):
    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(4, 1)

        def training_step(self, batch, batch_idx):
            return 0 * self.net(batch).square().mean() + loss_at(self.global_step + 1)

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=0.1)

    reported = []
    monitor = ScalingLawMonitor(
        journal=False,
        max_overhead=1,
        history=False,
        on_advice=lambda advice: reported.append((advice, made.global_step)),
    )
    made = trainer(pl, [monitor], max_steps=STEPS, max_epochs=-1)
    made.fit(Model(), loader(80))
    advice, seen_at = next((advice, at) for advice, at in reported if advice.action == "investigate")
    assert BROKEN + STEPS // 100 < advice.step < BROKEN + 2 * STEPS // 100
    assert advice.step % (STEPS // 100) != 0
    assert seen_at - advice.step <= 2
    assert monitor.deviation.alarm

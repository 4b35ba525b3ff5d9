"""Under which names a run may have logged what a history needs; each list is tried in its order, names taken exactly.

| what | names |
|---|---|
| loss | :data:`OURS`, then :data:`TRAIN`, then :data:`VALIDATION`: metrics |
| learning rate | :data:`RATES`: metrics |
| parameter count | :data:`PARAMS`: params, then metrics |
| planned steps | :data:`TOTAL_STEPS`: params |
| family | :data:`FAMILY`: tags, then params |
"""

from __future__ import annotations

OURS = "scaling/loss"
FOLLOWED = "scaling.monitor"
OUR_RATE = "scaling/lr"
OUR_TOKENS = ("scaling/tokens", "scaling/samples")
OUR_FLOPS = "scaling/flops"
CURVE = "scaling/curve.csv"
LEDGER = "scaling.ledger"
CALIBRATION = "scaling.calibration"

TRAIN = (
    "train_loss",
    "train/loss",
    "training_loss",
    "training/loss",
    "train_loss_step",
    "train/loss_step",
    "training_loss_step",
    "loss",
    "loss/train",
    "Loss/train",
    "loss_step",
    "train_loss_epoch",
    "train/loss_epoch",
    "training_loss_epoch",
    "loss_epoch",
)
VALIDATION = (
    "val_loss",
    "val/loss",
    "valid_loss",
    "valid/loss",
    "validation_loss",
    "validation/loss",
    "eval_loss",
    "eval/loss",
    "loss/val",
    "loss/valid",
    "loss/validation",
    "Loss/val",
    "val_loss_epoch",
    "val/loss_epoch",
)
LOSSES = (OURS, *TRAIN, *VALIDATION)

_OPTIMIZERS = (
    *("AdamW", "Adam", "SGD", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "Adafactor", "RMSprop", "ASGD"),
    *(
        "LBFGS",
        "Muon",
        "Lion",
        "LAMB",
        "Lamb",
        "SOAP",
        "Shampoo",
        "DistributedShampoo",
        "FusedAdam",
        "DeepSpeedCPUAdam",
    ),
    *("AdamW8bit", "Adam8bit", "PagedAdamW8bit", "Sophia", "AdEMAMix", "ScheduleFreeAdamW", "AdamWScheduleFree"),
)
RATES = (
    OUR_RATE,
    "lr",
    "learning_rate",
    "train/lr",
    "train/learning_rate",
    "train_lr",
    "lr/train",
    # as Lightning's LearningRateMonitor names them
    *(f"lr-{name}" for name in _OPTIMIZERS),
    *(f"lr-{name}/pg1" for name in _OPTIMIZERS),
)
PARAMS = (
    "scaling.params.total",
    "n_params",
    "num_params",
    "n_parameters",
    "num_parameters",
    "total_params",
    "total_parameters",
    "model_params",
    "model_parameters",
    "param_count",
    "parameter_count",
    "params",
    "parameters",
    "params/total",
    "trainable_params",
    "num_trainable_params",
)
TOTAL_STEPS = (
    "scaling.plan.total_steps",
    "max_steps",
    "total_steps",
    "num_steps",
    "train_steps",
    "training_steps",
    "num_training_steps",
    "max_train_steps",
    "max_iters",
)
FAMILY = ("scaling.family", "family")

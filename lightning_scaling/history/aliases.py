"""Names under which runs log losses, rates, sizes and lengths; each list is tried in order, names match exactly.

| what | names |
|---|---|
| loss | ``scaling/loss``, then :data:`TRAIN`, then :data:`VALIDATION`: metrics |
| learning rate | :data:`RATES`: metrics |
| parameter count | :data:`PARAMS`: params, then metrics |
| planned steps | :data:`TOTAL_STEPS`: params |
| family | :data:`FAMILY`: tags, then params |
"""

from __future__ import annotations

from lightning_scaling.tracking import schema


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TRAIN = _names(
    """
    train_loss train/loss training_loss training/loss train_loss_step train/loss_step training_loss_step loss
    loss/train Loss/train loss_step train_loss_epoch train/loss_epoch training_loss_epoch loss_epoch
    """
)
VALIDATION = _names(
    """
    val_loss val/loss valid_loss valid/loss validation_loss validation/loss eval_loss eval/loss loss/val loss/valid
    loss/validation Loss/val val_loss_epoch val/loss_epoch
    """
)
TRAIN_LOSSES = (schema.LOSS, *TRAIN)
LOSSES = (*TRAIN_LOSSES, *VALIDATION)

_OPTIMIZERS = _names(
    """
    AdamW Adam SGD NAdam RAdam Adamax Adagrad Adadelta Adafactor RMSprop ASGD LBFGS Muon Lion LAMB Lamb SOAP Shampoo
    DistributedShampoo FusedAdam DeepSpeedCPUAdam AdamW8bit Adam8bit PagedAdamW8bit Sophia AdEMAMix ScheduleFreeAdamW
    AdamWScheduleFree
    """
)
# after the usual names those of Lightning's LearningRateMonitor, alone and for the first of several parameter groups
_MONITORED = (f"lr-{name}{group}" for group in ("", "/pg1") for name in _OPTIMIZERS)
RATES = (schema.LR, *_names("lr learning_rate train/lr train/learning_rate train_lr lr/train"), *_MONITORED)
PARAMS = (
    schema.PARAM_COUNT,
    *_names(
        """
        n_params num_params n_parameters num_parameters total_params total_parameters model_params model_parameters
        param_count parameter_count params parameters params/total trainable_params num_trainable_params
        """
    ),
)
TOTAL_STEPS = (
    schema.PARAM_TOTAL_STEPS,
    *_names("max_steps total_steps num_steps train_steps training_steps num_training_steps max_train_steps max_iters"),
)
FAMILY = (schema.TAG_FAMILY, "family")

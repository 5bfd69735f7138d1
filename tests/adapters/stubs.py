"""Small stubs of the trainers that the SDK's callbacks are made for: the parts that the callbacks import, and loops that call
them as the libraries do. `train.py` runs the same callbacks on the libraries themselves."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

EPOCHS = 3
STEPS = 7
"""An epoch's: its parts have no exact decimal text."""


def put_module(name: str, **contents: Any) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__path__ = []
    for attribute, value in contents.items():
        setattr(module, attribute, value)
    sys.modules[name] = module


def hugging_face(url: str) -> str:
    """transformers.Trainer: each log carries the epoch as a fraction, and an evaluation ends each epoch."""
    put_module("transformers")
    put_module("transformers.trainer_callback", TrainerCallback=type("TrainerCallback", (), {}))
    from matyan_client.adapters.hugging_face import MatyanCallback

    callback = MatyanCallback(repo=url, experiment="hugging face")
    config = SimpleNamespace(hidden_size=8, dtype=float, id2label={0: "a", 1: "b"})
    model = SimpleNamespace(config=config, num_labels=2)
    sanitized = {
        "learning_rate": 5e-5,
        "num_train_epochs": EPOCHS,
        "output_dir": "out",
        "fp16": False,
    }
    args = SimpleNamespace(to_sanitized_dict=lambda: sanitized)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, epoch=None)
    control = SimpleNamespace()

    def log(logs: dict[str, Any]) -> None:
        callback.on_log(args, state, control, model=model, logs={**logs, "epoch": state.epoch})

    callback.on_init_end(args, state, control)
    callback.on_train_begin(args, state, control, model=model)
    run = callback.experiment.hash
    for step in range(EPOCHS * STEPS):
        state.global_step = step + 1
        state.epoch = state.global_step / STEPS
        rate = 5e-5 * (1 - step / (EPOCHS * STEPS))
        log({"loss": 1 / (step + 1), "grad_norm": 0.5 + step, "learning_rate": rate})
        if state.global_step % STEPS == 0:
            evaluated = {"eval_loss": 2 / (step + 1), "eval_accuracy": 0.5, "eval_runtime": 0.01}
            log({**evaluated, "eval_samples_per_second": 812.3, "eval_steps_per_second": 101.5})
    log({"train_runtime": 1.5, "train_loss": 0.2, "total_flos": 12345678901234.0})
    callback.on_train_end(args, state, control)
    return run


def lightning(url: str) -> str:
    """lightning.Trainer: metrics with their epoch beside them, a test after the logger was finalized."""

    class Logger:
        def finalize(self, status: str) -> None: ...

    put_module("lightning")
    put_module("lightning.pytorch")
    put_module("lightning.pytorch.loggers")
    put_module(
        "lightning.pytorch.loggers.logger", Logger=Logger, rank_zero_experiment=lambda call: call
    )
    put_module("lightning.pytorch.utilities", rank_zero_only=lambda call: call)
    put_module("omegaconf", OmegaConf=SimpleNamespace(is_config=lambda params: False))
    from matyan_client.adapters.pytorch_lightning import MatyanLogger

    logger = MatyanLogger(repo=url, experiment="lightning")
    logger.log_hyperparams({"lr": 0.01, "layers": [8, 2]})
    run = str(logger.version)
    for step in range(EPOCHS * STEPS):
        epoch = step // STEPS
        logger.log_metrics({"train_loss": 1 / (step + 1), "epoch": epoch}, step)
        if step % STEPS == STEPS - 1:
            logger.log_metrics({"val_loss": 2 / (step + 1), "val_acc": 0.5, "epoch": epoch}, step)
    # A module that logs an epoch of its own, such as self.log("epoch", …): Lightning makes a float of it.
    logger.log_metrics({"train_loss": 0.5, "epoch": 2.5}, EPOCHS * STEPS)
    logger.log_metrics({"train_loss": 0.25, "epoch": 3.0}, EPOCHS * STEPS + 1)
    logger.finalize("success")
    logger.log_metrics({"test_acc": 0.75, "epoch": EPOCHS}, EPOCHS * STEPS)
    logger.finalize("success")
    return run


def keras(url: str) -> str:
    """keras.Model.fit: the means of each epoch at its end, without steps."""
    put_module("keras")
    put_module("keras.callbacks", Callback=type("Callback", (), {}))
    from matyan_client.adapters.keras import MatyanCallback

    callback = MatyanCallback(repo=url, experiment="keras")
    run = callback.experiment.hash
    callback.model = SimpleNamespace(optimizer=SimpleNamespace(lr=0.01))
    for epoch in range(EPOCHS):
        means = {"loss": 1 / (epoch + 1), "accuracy": 0.5}
        callback.on_epoch_end(epoch, {**means, "val_loss": 2 / (epoch + 1), "val_accuracy": 0.4})
    callback.close()
    return run

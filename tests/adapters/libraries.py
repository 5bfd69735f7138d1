"""The libraries themselves, each with a training of a second on made-up data. They stand in environments of their own."""

from __future__ import annotations

import os
import tempfile
from typing import Any


def hugging_face(url: str) -> str:
    import torch
    from matyan_client.adapters.hugging_face import MatyanCallback
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    config = BertConfig(
        vocab_size=32,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    torch.manual_seed(0)
    rows = [
        {"input_ids": torch.randint(0, 32, (8,)), "labels": torch.tensor(number % 2)}
        for number in range(56)
    ]
    callback = MatyanCallback(repo=url, experiment="hugging face")
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=3,
            per_device_train_batch_size=8,
            logging_steps=1,
            eval_strategy="epoch",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
        )
        trainer = Trainer(
            model=BertForSequenceClassification(config),
            args=arguments,
            train_dataset=rows,
            eval_dataset=rows[:16],
            callbacks=[callback],
        )
        run = callback.experiment.hash
        trainer.train()
    callback.close()
    return run


def lightning(url: str) -> str:
    import pytorch_lightning as lightning
    import torch
    from matyan_client.adapters.pytorch_lightning import MatyanLogger
    from torch.utils.data import DataLoader, TensorDataset

    class Model(lightning.LightningModule):
        def __init__(self, width: int = 4, rate: float = 0.01) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(width, 1)

        def _step(self, batch: Any, name: str, **how: Any) -> Any:
            rows, wanted = batch
            loss = torch.nn.functional.mse_loss(self.layer(rows)[:, 0], wanted)
            self.log(name, loss, **how)
            return loss

        def training_step(self, batch: Any) -> Any:
            return self._step(batch, "train_loss", on_step=True)

        def validation_step(self, batch: Any) -> Any:
            return self._step(batch, "val_loss")

        def test_step(self, batch: Any) -> Any:
            return self._step(batch, "test_loss")

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.hparams.rate)

    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(torch.randn(56, 4), torch.randn(56)), batch_size=8)
    logger = MatyanLogger(repo=url, experiment="lightning")
    run = str(logger.version)
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        devices=1,
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Model()
    trainer.fit(model, loader, loader)
    trainer.test(model, loader, verbose=False)
    logger.finalize("success")
    return run


def keras(url: str) -> str:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras
    import numpy
    from matyan_client.adapters.keras import MatyanCallback

    keras.utils.set_random_seed(0)
    rows = numpy.random.rand(56, 4)
    model = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse", metrics=["mae"])
    callback = MatyanCallback(repo=url, experiment="keras")
    run = callback.experiment.hash
    model.fit(rows, rows.sum(1), epochs=3, validation_split=0.25, verbose=0, callbacks=[callback])
    callback.close()
    return run

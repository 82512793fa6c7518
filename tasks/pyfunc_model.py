"""The MLflow view of a model artifact, logged as code: completes prompts with weights read from safetensors.

MLflow copies this file and ``llm_core`` beside the weights, so ``mlflow models serve`` works without this project.
Our own server and evaluation never load a model this way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd


class Completion(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """A `prompt` column in, the continuations out."""

    def load_context(self, context: Any) -> None:
        from llm_core.models import load_pretrained
        from llm_core.tokenizer import Tokenizer

        folder = Path(context.artifacts["model"])
        self._model = load_pretrained(folder).eval()
        self._tokenizer = Tokenizer.load(folder)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        options = {"max_tokens": 64, "temperature": 0.0, "seed": 0, **(params or {})}
        return [self._complete(str(prompt), options) for prompt in model_input["prompt"]]

    def _complete(self, prompt: str, options: dict[str, Any]) -> str:
        from llm_core.generate import generate

        ids = [self._tokenizer.end_id, *self._tokenizer.encode(prompt)]
        made = generate(
            self._model,
            ids,
            max_tokens=int(options["max_tokens"]),
            temperature=float(options["temperature"]),
            seed=int(options["seed"]),
            stop_ids=(self._tokenizer.end_id,),
        )
        return self._tokenizer.decode(list(made))


mlflow.models.set_model(Completion())

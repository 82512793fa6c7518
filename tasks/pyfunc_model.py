"""The MLflow view of a model artifact, logged as code: scores tables with weights read from safetensors.

MLflow copies this file and ``llm_core`` beside the weights, so ``mlflow models serve`` works without this project.
What goes in and comes out follows from what the model is for (`tasks/logged_model.py` writes it into the signature).
Our own server and evaluation never load a model this way.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException


class TableModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """A table of texts in, what the model says to each row out."""

    def load_context(self, context: Any) -> None:
        from llm_core.pipeline.batch import Writes, scorer

        self._scorer: Any = scorer(Path(context.artifacts["model"]))
        self._writes = isinstance(self._scorer, Writes)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> list[str] | pd.DataFrame:
        """Texts of a model that writes, else a table; raises MlflowException for a row that the model cannot read."""
        from llm_core.pipeline.batch import score_rows

        try:
            scorer = self._scorer.with_options(**(params or {})) if self._writes else self._scorer
            columns = [name for name in (*scorer.reads, *scorer.may_read) if name in model_input]
            cells = model_input[columns].itertuples(index=False, name=None)
            rows = [self._row(number, texts) for number, texts in enumerate(cells)]
        except ValueError as problem:  # MLflow's server shows the message of this kind alone
            raise MlflowException.invalid_parameter_value(str(problem)) from None
        found = score_rows(scorer, rows, range(len(rows)))
        return [each["answer"] for each in found] if self._writes else pd.DataFrame(found, columns=list(scorer.gives))

    def _row(self, number: int, texts: tuple[Any, ...]) -> Any:
        try:
            return self._scorer.read(*texts)
        except ValueError as problem:
            raise ValueError(f"row {number}: {problem}") from None


mlflow.models.set_model(TableModel())

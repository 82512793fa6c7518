"""What the heads of all families share: pooling of token states, and the labels of a classifier.

The heads themselves are linear layers under the names of the Hugging Face layout: ``score`` or ``classifier`` with
`num_labels` rows, ``qa_outputs`` with two (start and end). Dimensions: B sequences, T tokens, C width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

CLASSIFIER_DROPOUT = 0.1  # Hugging Face's before a token classifier, where config.json names none


def mean_of_text(states: Tensor, segments: Tensor | None) -> Tensor:
    """The mean (B, C) of the states (B, T, C) whose segment is above 0; all of them without segments."""
    if segments is None:
        return states.mean(dim=1)
    inside = (segments > 0).unsqueeze(-1).to(states.dtype)  # (B, T, 1)
    return (states * inside).sum(dim=1) / inside.sum(dim=1).clamp_min(1)


def last_of_text(states: Tensor, input_ids: Tensor, segments: Tensor | None, pad_id: int | None) -> Tensor:
    """The state (B, C) of each row's last token that is text: segment above 0, or else another id than `pad_id`."""
    if segments is not None:
        is_text = segments > 0
    elif pad_id is not None:
        is_text = input_ids != pad_id
    else:
        return states[:, -1]
    places = torch.arange(states.shape[1], device=states.device)
    rows = torch.arange(states.shape[0], device=states.device)
    return states[rows, (places * is_text).argmax(dim=1)]


def numbered_labels(num_labels: int) -> tuple[str, ...]:
    """Hugging Face's names of labels that have none."""
    return tuple(f"LABEL_{place}" for place in range(num_labels))


DEFAULT_LABELS = numbered_labels(2)


def labels_from_json(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels' names in the order of their ids, out of ``config.json``; raises ValueError for gaps."""
    names = values.get("id2label")
    if not names:
        return numbered_labels(values.get("num_labels", len(DEFAULT_LABELS)))
    by_id = {int(number): str(name) for number, name in names.items()}
    if sorted(by_id) != list(range(len(by_id))):
        raise ValueError(f"id2label {names!r} must number the labels 0, 1, 2 and so on")
    return tuple(by_id[number] for number in range(len(by_id)))


def labels_to_json(labels: tuple[str, ...]) -> dict[str, Any]:
    """The keys of ``config.json`` that name the labels; none for the layout's default of two nameless ones."""
    if labels == DEFAULT_LABELS:
        return {}
    return {
        "id2label": {str(number): name for number, name in enumerate(labels)},
        "label2id": {name: number for number, name in enumerate(labels)},
    }

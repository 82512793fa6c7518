"""Fetching a model from the Hugging Face hub: weights, configs and tokenizers, and nothing that could run."""

from __future__ import annotations

import re
from pathlib import Path

from llm_core.models.interface import ModelError

PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model")
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w-][\w.-]*")


def is_repo_id(source: str) -> bool:
    """Whether `source` is written like a repository of the hub, NAME or OWNER/NAME."""
    return REPO_ID.fullmatch(source) is not None and not source.startswith(".") and not source.endswith(".gguf")


def fetch(repo_id: str, revision: str | None = None) -> Path:
    """The local folder of a hub repository at `revision`, fetched where the hub's cache has it not.

    Raises ModelError where there is no such repository or revision, and where the hub is out of reach.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = repo_id if revision is None else f"{repo_id}@{revision}"
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(PATTERNS)))
    except GatedRepoError:
        raise ModelError(f"{name}: the hub asks for consent; accept its terms there and set HF_TOKEN") from None
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        raise ModelError(
            f"{name}: the hub has no such repository or revision; check the name, or set HF_TOKEN"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise ModelError(
            f"{name}: the hub is out of reach and its cache lacks the files ({reason}); "
            "try again, or give the folder of a model that was fetched elsewhere"
        ) from None

"""Where a run works and where everything it shares lives.

A workspace is a checkout: the one a person works in, or a git worktree of it that belongs to one worker, so that a
run from the UI never touches a person's files. All of them share one home, ``.tidemill`` in the main checkout.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "TIDEMILL_HOME"


class WorkspaceError(ValueError):
    """No usable workspace; the message says what to do."""


@dataclass(frozen=True)
class Workspace:
    """A checkout (`root`: dvc.yaml, configs, out) and what all checkouts share (`home`: stores, keys, servers)."""

    root: Path
    home: Path

    @classmethod
    def here(cls, start: Path | None = None) -> Workspace:
        """The workspace around `start` (default: the current folder)."""
        start = (start or Path.cwd()).resolve()
        root = next((folder for folder in (start, *start.parents) if (folder / "dvc.yaml").is_file()), None)
        if root is None:
            raise WorkspaceError(f"{start}: not inside a Tidemill checkout (no dvc.yaml here or above); cd into one")
        given = os.environ.get(HOME_VARIABLE)
        return cls(root=root, home=Path(given).resolve() if given else _main_checkout(root) / ".tidemill")

    @property
    def project(self) -> Path:
        """The main checkout, which relative sources start from in every workspace."""
        return self.home.parent

    @property
    def inbox(self) -> Path:
        """Folder in which the nightly recipe looks for new texts, beside its other sources."""
        return self.home / "inbox"

    @property
    def sources(self) -> Path:
        """What is known of source files: hashes, the batches they arrived in, downloads."""
        return self.home / "sources"

    @property
    def memo(self) -> Path:
        """Finished parts of data stages; a cache, never a dependency."""
        return self.home / "memo"

    @property
    def tokenizers(self) -> Path:
        """Tokenizers of registered models, a folder for each digest."""
        return self.home / "tokenizers"

    @property
    def starts(self) -> Path:
        """Models that trainings start from, a folder for each digest."""
        return self.home / "starts"

    @property
    def quarantine(self) -> Path:
        """Original bytes of rejected records; private, never pushed."""
        return self.home / "quarantine"

    @property
    def refused(self) -> Path:
        """Data that broke their contract, for people to look at."""
        return self.home / "refused"

    @property
    def out(self) -> Path:
        """Folder of the artifacts, one folder a stage."""
        return self.root / "out"

    @property
    def configs(self) -> Path:
        """Folder of the recipes."""
        return self.root / "configs"

    @property
    def run_recipe(self) -> Path:
        """The resolved recipe of this workspace, the only parameters that DVC sees."""
        return self.configs / "run.yaml"

    @property
    def inventory(self) -> Path:
        """The list of every source file with its sha256: what collect depends on."""
        return self.configs / "inventory.json"


def _main_checkout(root: Path) -> Path:
    """The main worktree of `root`'s repository; `root` itself where there is no git."""
    command = ["git", "-C", str(root), "rev-parse", "--path-format=absolute", "--git-common-dir"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return root
    return Path(found).parent if Path(found).name == ".git" else root

"""Peers that benchmarks compare with, each installed into a virtual environment of its own under `.tidemill/peers`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).resolve().parent.parent / ".tidemill" / "peers"


@dataclass(frozen=True)
class Peer:
    """A released program to compare with."""

    name: str
    version: str
    extras: tuple[str, ...] = ()
    """What else it needs for the work that is compared, as pip requirements."""

    @property
    def title(self) -> str:
        """Name and version, as results state them."""
        return f"{self.name} {self.version}"

    def python(self) -> Path:
        """The interpreter of its environment, which is made first where it is missing."""
        folder = PEERS / f"{self.name}-{self.version}"
        python = folder / "bin" / "python"
        ready = folder / "ready"
        if not ready.exists():
            print(f"installing {self.title} into {folder}", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            wanted = (f"{self.name}=={self.version}", *self.extras)
            subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], check=True, stdout=sys.stderr)
            ready.touch()
        return python


DATATROVE = Peer(
    "datatrove", "0.10.0", ("spacy>=3.8,<3.9", "xxhash<4", "regex", "tldextract", "nltk", "tokenizers", "fasteners")
)
TRANSFORMERS = Peer("transformers", "5.23.0", ("accelerate>=1.14,<2", "torch==2.13.0"))
"""With the torch of the project, so that only what is done with it differs."""
LM_EVAL = Peer("lm-eval", "0.4.13", ("transformers==5.23.0", "accelerate>=1.14,<2", "torch==2.13.0"))

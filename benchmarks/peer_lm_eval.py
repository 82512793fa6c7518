"""lm-evaluation-harness's `HFLM` for `benchmarks/evaluation.py`: `python -P peer_lm_eval.py MODEL`.

Runs in the peer's interpreter. A line on standard input is a JSON object with pairs and a batch size; what comes back
on standard output, in a line, are the log-probabilities and the CPU seconds that they took.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

import torch  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402


def main(folder: str) -> None:
    """Answer until the input ends."""
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):
        model = HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=1)
    for line in sys.stdin:
        asked = json.loads(line)
        model.batch_size_per_gpu = asked["batch_size"]
        requests = [
            Instance(request_type="loglikelihood", doc={}, arguments=tuple(pair), idx=0) for pair in asked["pairs"]
        ]
        began = time.process_time()
        with contextlib.redirect_stdout(sys.stderr):
            found = model.loglikelihood(requests, disable_tqdm=True)
        seconds = time.process_time() - began
        print(json.dumps({"logprobs": [logprob for logprob, _ in found], "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

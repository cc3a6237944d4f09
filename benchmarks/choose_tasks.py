"""The tasks of experiment=sixty_tasks and experiment=differing_edits, by rules that were written before a result.

    python benchmarks/choose_tasks.py sixty_tasks > /tmp/candidates
    python benchmarks/solve_table.py OUT.jsonl --model grid --workers 2 --rows grid/in_context --tasks "$(cat /tmp/candidates)"
    python benchmarks/choose_tasks.py sixty_tasks OUT.jsonl

`sixty_tasks`: of the training tasks that the grid model was pretrained on, which are none of an evaluation set, of arcagi1/dev
or of SEAL's, those of at most 500 tokens of context that the grid model does not solve in context (two attempts by votes,
seed 0). By the order of their ids' hashes the first 24 are held out, the next 60 are trained on.

`differing_edits`: of these, of arcagi1/dev and of SEAL's twelve training tasks, the latter two of which it was not pretrained on,
those of at most 500 tokens of context that the grid model does not solve in context and on which self-edits differ: of
self_edit=paper_wide's three fixed candidates (rows `grid/paper_basic`, `grid/paper_all`, `grid/paper_none`) at least one
solves it and at least one does not (two attempts by scores, seed 0). arcagi1/dev comes first, the others by the order of
their ids' hashes; the first 20 that are not SEAL's are held out, the next 20 are trained on. Tasks after those need no
results: run the candidates as they are printed, and stop when there are forty.

The model has seen the tasks that it was pretrained on; the policy, which is what the experiments are about, sees those
alone that it is trained on.
"""  # noqa: E501

import argparse
import json
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

from arc_seal.arc.datasets import load_tasks
from arc_seal.arc.splits import context_tokens, pretraining_tasks

LONGEST = 500
HELD_OUT, TRAINING = 24, 60
DIFFERING = 20
"""Tasks held out by `differing_edits`, and as many trained on."""
IN_CONTEXT = "grid/in_context"
FIXED = ("grid/paper_basic", "grid/paper_all", "grid/paper_none")


def main() -> None:
    """Print the candidates as a spec for solve_table, or the chosen as they stand in conf/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rule", choices=["sixty_tasks", "differing_edits"])
    parser.add_argument("results", type=Path, nargs="?", help="what solve_table has written; without: the candidates")
    arguments = parser.parse_args()
    specs = candidates(unseen=arguments.rule == "differing_edits")
    if arguments.results is None:
        print(",".join(specs))
        return
    rule = differing_edits if arguments.rule == "differing_edits" else sixty_tasks
    for title, part in zip(("train", "held_out"), rule(specs, arguments.results), strict=True):
        print(f"  {title}:", *(f"    - {spec}" for spec in sorted(part)), sep="\n")


def sixty_tasks(specs: Iterable[str], results: Path) -> tuple[list[str], list[str]]:
    """Trained on, held out."""
    known = marks(results, IN_CONTEXT, "reward_by_votes")
    order = sorted((spec for spec in specs if not known(spec)), key=digest("arc-seal choice"))
    return order[HELD_OUT : HELD_OUT + TRAINING], order[:HELD_OUT]


def differing_edits(specs: Iterable[str], results: Path) -> tuple[list[str], list[str]]:
    """Trained on, held out."""
    known = marks(results, IN_CONTEXT, "reward")
    solved = [marks(results, row, "reward") for row in FIXED]
    improved_on = {task.id for task, _ in load_tasks("seal/training")}
    trained_on: list[str] = []
    held_out: list[str] = []
    for spec in specs:
        part = held_out if len(held_out) < DIFFERING and spec.split("/")[-1] not in improved_on else trained_on
        if len(part) < DIFFERING and not known(spec) and differ(spec, solved):
            part.append(spec)
    return trained_on, held_out


def differ(spec: str, solved: Iterable[Callable[[str], bool]]) -> bool:
    """Whether some self-edits solve a task and others do not."""
    outcomes = [each(spec) for each in solved]
    return any(outcomes) and not all(outcomes)


def candidates(unseen: bool) -> list[str]:
    """What a rule looks at, as specs and in its order; `unseen` are tasks that the model was not pretrained on."""
    first = {task.id for task, _ in load_tasks("arcagi1/training")}
    dev = {task.id for task, _ in load_tasks("arcagi1/dev")}
    entries = [*pretraining_tasks(), *(load_tasks("arcagi1/dev", "seal/training") if unseen else [])]
    short = {task.id for task, _ in entries if context_tokens(task) <= LONGEST}
    hashed = digest("arc-seal room")
    order = sorted(short, key=lambda each: (each not in dev, hashed(each)))
    return [f"{'arcagi1' if each in first else 'arcagi2'}/training/{each}" for each in order]


def marks(results: Path, row: str, reward: str) -> Callable[[str], bool]:
    """Whether a task, by its spec, was solved in a row of the table."""
    lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    known = {line["task"]: line[reward] == 1 for line in lines if line["row"] == row}

    def solved(spec: str) -> bool:
        name = spec.split("/")[-1]
        if name not in known:
            raise SystemExit(f"{results}: expected {row} on every candidate, found none on {name}")
        return known[name]

    return solved


def digest(salt: str) -> Callable[[str], bytes]:
    """What decides the order of specs; the salts are the first names of the experiments."""
    return lambda spec: sha256(f"{salt} {spec.split('/')[-1]}".encode()).digest()


if __name__ == "__main__":
    main()

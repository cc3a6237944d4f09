"""The splits: that they are what their rules give, and that nothing measured or tuned on is trained on."""

from collections import Counter
from collections.abc import Iterable
from hashlib import sha256

import numpy as np
import pytest

from arc_seal.arc.datasets import DEV, EVALUATION_SAMPLE, POLICY, SEAL_HELD_OUT, SEAL_TRAINING, load_task, load_tasks
from arc_seal.arc.grid import Grid
from arc_seal.arc.splits import (
    EVALUATION_SETS,
    UNTRAINED,
    Contamination,
    context_tokens,
    excluded,
    never_trained,
    pretraining_tasks,
    solved_pairs,
    untrained,
)
from arc_seal.arc.task import Demonstration, Entry, Task

DEV_TASKS, DEV_CONTEXT_TOKENS = 40, 1200
"""Tasks of `arcagi1/dev`, and their longest context: tuning takes many runs, which longer ones would make slow."""

POLICY_TASKS, POLICY_CONTEXT_TOKENS = 80, 2048
"""Tasks of `policy`, and their longest context."""

SAMPLE_TASKS, SAMPLE_CONTEXT_TOKENS = 60, 2048
"""Tasks of `arcagi1/evaluation_sample`, and their longest context."""


def test_the_dev_split_is_what_its_rule_gives() -> None:
    assert choose_dev() == DEV
    assert len(set(DEV)) == 40


def test_the_evaluation_sample_is_what_its_rule_gives() -> None:
    assert choose_evaluation_sample() == EVALUATION_SAMPLE
    assert len(set(EVALUATION_SAMPLE)) == 60


def test_the_policy_split_is_what_its_rule_gives() -> None:
    assert choose_policy() == tuple(sorted(POLICY["arcagi1"] + POLICY["arcagi2"]))
    assert [len(ids) for ids in POLICY.values()] == [47, 33]
    entries = load_tasks("policy")
    assert tuple(task.id for task, _ in entries) == POLICY["arcagi1"] + POLICY["arcagi2"]
    assert max(context_tokens(task) for task, _ in entries) <= POLICY_CONTEXT_TOKENS == 2048
    assert entries == [
        entry for name, ids in POLICY.items() for entry in load_tasks(*(f"{name}/training/{i}" for i in ids))
    ]


def choose_dev() -> tuple[str, ...]:
    """The ids of `arcagi1/dev`: of arcagi1/training, what is not contaminated by an evaluation set or SEAL's twelve."""
    unseen = Contamination.of({spec: load_tasks(spec) for spec in (*EVALUATION_SETS, "seal/training")})
    entries = [entry for entry in load_tasks("arcagi1/training") if unseen.reason(entry) is None]
    return _chosen(entries, DEV_TASKS, DEV_CONTEXT_TOKENS, "arc-seal dev")


def choose_policy() -> tuple[str, ...]:
    """The ids of `policy`: of both training sets, each id once, what nothing else that is untrained contaminates."""
    unseen = Contamination.of({spec: load_tasks(spec) for spec in UNTRAINED if spec != "policy"})
    known = {task.id for task, _ in load_tasks("arcagi1")}
    later = [entry for entry in load_tasks("arcagi2/training") if entry[0].id not in known]
    entries = [entry for entry in [*load_tasks("arcagi1/training"), *later] if unseen.reason(entry) is None]
    return _chosen(entries, POLICY_TASKS, POLICY_CONTEXT_TOKENS, "arc-seal policy")


def choose_evaluation_sample() -> tuple[str, ...]:
    """The ids of `arcagi1/evaluation_sample`: of all of arcagi1/evaluation, SEAL's eight as likely as any other."""
    return _chosen(load_tasks("arcagi1/evaluation"), SAMPLE_TASKS, SAMPLE_CONTEXT_TOKENS, "arc-seal evaluation sample")


def _chosen(entries: Iterable[Entry], count: int, longest: int, salt: str) -> tuple[str, ...]:
    """The first ids in the order of their salted hashes whose context is short enough, in alphabetical order."""
    ids = [task.id for task, _ in entries if context_tokens(task) <= longest]
    return tuple(sorted(sorted(ids, key=lambda task_id: sha256(f"{salt} {task_id}".encode()).digest())[:count]))


def test_contexts_are_no_longer_than_said() -> None:
    assert max(context_tokens(task) for task, _ in load_tasks("arcagi1/dev")) <= DEV_CONTEXT_TOKENS == 1200
    sample = load_tasks("arcagi1/evaluation_sample")
    assert max(context_tokens(task) for task, _ in sample) <= SAMPLE_CONTEXT_TOKENS == 2048


def test_a_context_is_the_demonstrations_and_the_largest_test_input() -> None:
    small, large, tall = Grid(1, 2, bytes(2)), Grid(3, 4, bytes(12)), Grid(12, 1, bytes(12))
    task = Task("aa", (Demonstration(small, large), Demonstration(small, small)), (large, tall, small))
    assert context_tokens(task) == (2 + 1 + 1) * 3 + (12 + 3 + 1) + (12 + 12 + 1)


def test_the_splits_are_disjoint_by_id() -> None:
    trained = {task.id for task, _ in pretraining_tasks()}
    measured = {task.id for task, _ in [*load_tasks("arcagi1/evaluation"), *load_tasks("arcagi2/evaluation")]}
    assert set(EVALUATION_SAMPLE) | set(SEAL_HELD_OUT) <= measured
    groups = [trained, measured, set(DEV), set(SEAL_TRAINING), {*POLICY["arcagi1"], *POLICY["arcagi2"]}]
    assert len(set().union(*groups)) == sum(map(len, groups))
    assert len(trained) == len(pretraining_tasks())


def test_no_pretraining_task_shares_a_pair_with_an_untrained_one() -> None:
    """By every image of every pair, found without `Contamination`; two tasks that do share one are the control."""
    images = {image for spec in UNTRAINED for entry in load_tasks(spec) for image in all_images(entry)}
    known = load_tasks("arcagi1/training/40853293", "arcagi1/training/27a28665")
    assert all(shares(entry, images) for entry in known)
    assert [entry[0].id for entry in pretraining_tasks() if shares(entry, images)] == []


def test_no_dev_task_shares_a_pair_with_seals_twelve_or_with_an_evaluation_set() -> None:
    specs = [spec for spec in UNTRAINED if spec != "arcagi1/dev"]
    images = {image for spec in specs for entry in load_tasks(spec) for image in all_images(entry)}
    assert [entry[0].id for entry in load_tasks("arcagi1/dev") if shares(entry, images)] == []


def test_no_two_pretraining_tasks_share_a_pair() -> None:
    images = [{spelt(pair) for pair in solved_pairs(entry)} for entry in pretraining_tasks()]
    assert sum(map(len, images)) == len(set().union(*images))


def test_what_is_untrained_is_nowhere_in_pretraining() -> None:
    assert [entry[0].id for entry in pretraining_tasks() if untrained().reason(entry)] == []


def test_how_many_tasks_are_left_out_and_why() -> None:
    assert len(pretraining_tasks()) == 276 + 195
    counts = Counter((spec.split("/")[0], reason.rsplit("/", 1)[0]) for spec, reason in excluded().items())
    assert counts == {
        ("arcagi1", "it is arcagi1/dev"): 40,
        ("arcagi1", "it is seal/training"): 12,
        ("arcagi1", "it shares a pair with arcagi1/evaluation"): 2,
        ("arcagi1", "it shares a pair with seal/training"): 2,
        ("arcagi1", "it is policy"): 47,
        ("arcagi1", "it shares a grid with policy"): 3,
        ("arcagi1", "it shares a grid with arcagi1/evaluation"): 18,
        ("arcagi2", "it is arcagi1/training"): 391,
        ("arcagi2", "it is arcagi1/evaluation"): 376,
        ("arcagi2", "it is policy"): 33,
        ("arcagi2", "it shares a grid with arcagi1/evaluation"): 5,
    }


def test_every_task_is_taken_or_left_out() -> None:
    specs = [
        f"{split}/{task.id}" for split in ("arcagi1/training", "arcagi2/training") for task, _ in load_tasks(split)
    ]
    taken = [load_task(spec) for spec in specs if spec not in excluded()]
    assert set(excluded()) <= set(specs) and tuple(taken) == pretraining_tasks()


def test_never_trained_are_the_tasks_of_arcagi1_training_that_are_left_out() -> None:
    trained = {task.id for task, _ in pretraining_tasks()}
    assert never_trained() == {task.id for task, _ in load_tasks("arcagi1/training")} - trained
    assert never_trained() >= {*SEAL_TRAINING, *DEV, *POLICY["arcagi1"], "40853293", "caa06a1f", "27a28665", "c9e6f938"}
    assert len(never_trained()) == 124


def test_what_was_found_out_is_kept() -> None:
    assert untrained() is untrained() and pretraining_tasks() is pretraining_tasks()
    with pytest.raises(TypeError):
        excluded()["arcagi1/training/0d3d703e"] = "no reason"  # type: ignore[index]


def all_images(entry: Entry) -> set[tuple[object, ...]]:
    """Every image of every pair of a task under the symmetries, made by numpy's own turns."""
    made = set()
    for pair in solved_pairs(entry):
        for turns in range(4):
            turned = [np.rot90(grid.array, turns) for grid in (pair.input, pair.output)]
            made |= {recoloured(turned), recoloured([np.flipud(cells) for cells in turned])}
    return made


def shares(entry: Entry, images: set[tuple[object, ...]]) -> bool:
    return any(spelt(pair) in images for pair in solved_pairs(entry))


def spelt(pair: Demonstration) -> tuple[object, ...]:
    return recoloured([pair.input.array, pair.output.array])


def recoloured(arrays: list[np.ndarray]) -> tuple[object, ...]:
    """Shapes, and cells in which each colour is the place where it first appears."""
    cells = np.concatenate([array.ravel() for array in arrays])
    _, first, colours = np.unique(cells, return_index=True, return_inverse=True)
    return *(array.shape for array in arrays), first[colours].tobytes()

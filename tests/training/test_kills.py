"""Runs killed at every fault point of a checkpoint, and in between, resume to the same bytes."""

import inspect
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bertgpt.training import checkpoints
from bertgpt.training.checkpoints import Checkpoints, is_valid
from bertgpt.utils import files
from tests.conftest import Outcome
from tests.fixtures.training import ReferenceRun, assert_identical_runs

Run = Callable[..., Outcome]


def fault_points(action: Callable[[], None]) -> list[str]:
    """The fault points that an action passes, each with its count so far: the format of $BERTGPT_FAULT."""
    counts: Counter[str] = Counter()
    names = []

    def record(name: str) -> None:
        counts[name] += 1
        names.append(f"{name}:{counts[name]}")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files, "fault_point", record)
        patched.setattr(checkpoints, "fault_point", record)
        action()
    return names


def first_checkpoint(reference: ReferenceRun, out: Path) -> None:
    """Before the first checkpoint."""


def later_checkpoint(reference: ReferenceRun, out: Path) -> None:
    """Before a checkpoint after which an old one is pruned."""
    shutil.copytree(reference.interrupted, out)


def corrupt_checkpoint(reference: ReferenceRun, out: Path) -> None:
    """Before a checkpoint that replaces a corrupt one."""
    shutil.copytree(reference.interrupted, out)
    (out / "checkpoints" / "step-00000004" / "state.json").unlink()


def publishing(reference: ReferenceRun, out: Path) -> None:
    """Before publishing; some of the outputs exist."""
    shutil.copytree(reference.uninterrupted, out)
    (out / "metrics.json").unlink()


# How each scenario is set up, and the last fault point of its checkpoint ("" for all points to the end of the run).
SCENARIOS = [(first_checkpoint, "publish.renamed"), (later_checkpoint, "checkpoint.prune"),
           (corrupt_checkpoint, "publish.renamed"), (publishing, "")]  # fmt: skip
# Only reached if the temporary folder is on another disk, which a checkpoint's never is.
UNREACHABLE = {"publish.copied"}


@pytest.fixture(scope="module")
def points(reference: ReferenceRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The fault points of each scenario."""
    result, folder = {}, tmp_path_factory.mktemp("points")
    for set_up, last in SCENARIOS:
        out = folder / set_up.__name__
        set_up(reference, out)
        passed = fault_points(lambda out=out: reference.train(out))  # type: ignore[misc]
        if last:
            passed = passed[passed.index("checkpoint.model:1") : passed.index(f"{last}:1") + 1]
        if set_up in (corrupt_checkpoint, publishing):  # the other files are written as in other scenarios
            passed = [point for point in passed if point.startswith(("publish", "file.renamed"))]
        result[set_up.__name__] = passed
    return result


def test_every_fault_point_is_covered(points: dict[str, list[str]]) -> None:
    code = "".join(inspect.getsource(part) for part in (checkpoints, files.publish_atomic, files.atomic_write))
    defined = set(re.findall(r'\bfault_point\("([\w.]+)"\)', code))
    assert {"checkpoint.model", "checkpoint.prune", "publish.aside", "file.renamed"} <= defined
    assert defined - UNREACHABLE == {point.partition(":")[0] for names in points.values() for point in names}
    assert {name: len(names) for name, names in points.items()} == {
        "first_checkpoint": 10, "later_checkpoint": 11, "corrupt_checkpoint": 5, "publishing": 17,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("set_up", [set_up for set_up, _ in SCENARIOS])
def test_killed_at_every_fault_point(
    set_up: Callable[[ReferenceRun, Path], None],
    points: dict[str, list[str]],
    reference: ReferenceRun,
    tmp_path: Path,
    run: Run,
    run_forked: Callable[..., Outcome],
) -> None:
    """Visible checkpoints are valid, no earlier one is lost, and rerunning ends in the same bytes."""
    for point in points[set_up.__name__]:
        out = tmp_path / point
        set_up(reference, out)
        before = Checkpoints(out / "checkpoints").latest()
        assert run_forked(reference.argv(out), BERTGPT_FAULT=point).code == -signal.SIGKILL, point
        after = Checkpoints(out / "checkpoints").latest()
        assert before is None or (after is not None and after.name >= before.name), point
        done = run(*reference.argv(out))
        assert done.code == 0, (point, done.err)
        assert_identical_runs(reference.uninterrupted, out)
        assert not list(out.rglob(".*")), point
        shutil.rmtree(out)


def kill_in(owner: str, name: str, nth: int = 1, before: str = "pass") -> str:
    """Code that kills its process in the nth call of a method, after executing a statement."""
    module, _, owner = owner.rpartition(".")
    return f"""if True:
        import itertools, signal, {module} as module
        owner, calls, real = module.{owner}, itertools.count(1), module.{owner}.{name}
        def called(*args, **kwargs):
            if next(calls) == {nth}:
                {before}
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        owner.{name} = called
    """


KILLS = {
    "in a step": kill_in("bertgpt.trainer.Trainer", "compute_loss", 2),
    "before the optimizer step": kill_in("bertgpt.training.optimizers.Optimizers", "step", 3),
    "during validation": kill_in("bertgpt.callbacks.validation.ValidationCallback", "__call__"),
    "while logging metrics": kill_in(
        "bertgpt.training.logger.JsonlLogger", "log", 2, """args[0].path.open("a").write('{"step": 6, "spl')"""
    ),
    "while truncating metrics": kill_in(
        "bertgpt.training.logger.JsonlLogger",
        "truncate_after",
        1,
        """args[0].path.with_suffix(".tmp").write_text('{"step')""",
    ),
    "while pruning a checkpoint": kill_in(
        "bertgpt.training.checkpoints.shutil", "rmtree", 3, "next(args[0].glob('MANIFEST*')).unlink()"
    ),
}


@pytest.mark.parametrize("moment", KILLS)
def test_killed_between_fault_points(
    moment: str, reference: ReferenceRun, tmp_path: Path, run: Run, run_forked: Callable[..., Outcome]
) -> None:
    out = shutil.copytree(reference.interrupted, tmp_path / "run")
    done = run_forked(reference.argv(out), KILLS[moment])
    assert done.code == -signal.SIGKILL, done.err
    assert all(is_valid(folder) for folder in Checkpoints(out / "checkpoints").all())
    assert run(*reference.argv(out)).code == 0
    assert_identical_runs(reference.uninterrupted, out)
    assert not list(out.rglob(".*"))


def test_partial_line_of_metrics_is_dropped(reference: ReferenceRun, tmp_path: Path, run: Run) -> None:
    """Of a step that is repeated after resuming, or of one that is not."""
    for number, partial_line in enumerate(['{"step": 4, "tokens": 512, "spl', '{"step": 5', "{", "\0\0\0"]):
        out = shutil.copytree(reference.interrupted, tmp_path / str(number))
        with (out / "metrics.jsonl").open("a") as file:
            file.write(partial_line)
        assert run(*reference.argv(out)).code == 0
        assert_identical_runs(reference.uninterrupted, out)

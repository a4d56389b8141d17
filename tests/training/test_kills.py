"""A run that is killed, at every point of writing a checkpoint and between them, ends in the same bytes."""

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
from tests.fixtures.training import Example, assert_same

Run = Callable[..., Outcome]


def passed(work: Callable[[], None]) -> list[str]:
    """The points that some work passes, each with how often it was passed by then, as $BERTGPT_FAULT has it."""
    often: Counter[str] = Counter()
    found = []

    def noted(name: str) -> None:
        often[name] += 1
        found.append(f"{name}:{often[name]}")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files, "fault_point", noted)
        patched.setattr(checkpoints, "fault_point", noted)
        work()
    return found


def first_checkpoint(example: Example, out: Path) -> None:
    """Nothing is there yet."""


def later_checkpoint(example: Example, out: Path) -> None:
    """Others are there, one of which goes."""
    shutil.copytree(example.stopped, out)


def checkpoint_instead(example: Example, out: Path) -> None:
    """A broken one is where the next one is to be."""
    shutil.copytree(example.stopped, out)
    (out / "checkpoints" / "step-00000004" / "state.json").unlink()


def end(example: Example, out: Path) -> None:
    """All steps are taken; of what is published there is a part."""
    shutil.copytree(example.straight, out)
    (out / "metrics.json").unlink()


# Where each begins and how the points of the one checkpoint, or of the end, are found among all that are passed.
MOMENTS = [(first_checkpoint, "publish.renamed"), (later_checkpoint, "checkpoint.prune"),
           (checkpoint_instead, "publish.renamed"), (end, "")]  # fmt: skip
ELSEWHERE = {"publish.copied"}  # only where the work folder is on another disk; a checkpoint's never is


@pytest.fixture(scope="module")
def points(example: Example, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The points of each of these moments."""
    found, folder = {}, tmp_path_factory.mktemp("points")
    for begin, last in MOMENTS:
        out = folder / begin.__name__
        begin(example, out)
        all_of_it = passed(lambda out=out: example.make(out))  # type: ignore[misc]
        if last:
            all_of_it = all_of_it[all_of_it.index("checkpoint.model:1") : all_of_it.index(f"{last}:1") + 1]
        if begin in (checkpoint_instead, end):  # what is written there is written as elsewhere
            all_of_it = [point for point in all_of_it if point.startswith(("publish", "file.renamed"))]
        found[begin.__name__] = all_of_it
    return found


def test_every_point_of_a_checkpoint_is_one_at_which_runs_are_killed(points: dict[str, list[str]]) -> None:
    code = "".join(inspect.getsource(part) for part in (checkpoints, files.publish_atomic, files.write_atomic))
    named = set(re.findall(r'\bpoint\("([\w.]+)"\)', code))
    assert {"checkpoint.model", "checkpoint.prune", "publish.aside", "file.renamed"} <= named
    assert named - ELSEWHERE == {point.partition(":")[0] for some in points.values() for point in some}
    assert {name: len(some) for name, some in points.items()} == {
        "first_checkpoint": 10, "later_checkpoint": 11, "checkpoint_instead": 5, "end": 17,
    }  # fmt: skip


@pytest.mark.parametrize("begin", [begin for begin, _ in MOMENTS])
def test_killed_at_every_point(
    begin: Callable[[Example, Path], None],
    points: dict[str, list[str]],
    example: Example,
    tmp_path: Path,
    run: Run,
    elsewhere: Callable[..., Outcome],
) -> None:
    """F33: what is visible is whole, what was there before still is, and the same command ends in the same bytes."""
    for point in points[begin.__name__]:
        out = tmp_path / point
        begin(example, out)
        before = Checkpoints(out / "checkpoints").latest()
        assert elsewhere(example.argv(out), BERTGPT_FAULT=point).code == -signal.SIGKILL, point
        after = Checkpoints(out / "checkpoints").latest()
        assert before is None or (after is not None and after.name >= before.name), point
        done = run(*example.argv(out))
        assert done.code == 0, (point, done.err)
        assert_same(example.straight, out)
        assert not list(out.rglob(".*")), point
        shutil.rmtree(out)


def dying(owner: str, name: str, time: int = 1, last: str = "pass") -> str:
    """Code that has a process killed when it enters a method for the so-many-th time, after it has done something."""
    module, _, owner = owner.rpartition(".")
    return f"""if True:
        import itertools, signal, {module} as there
        owner, calls, real = there.{owner}, itertools.count(1), there.{owner}.{name}
        def entered(*given, **named):
            if next(calls) == {time}:
                {last}
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **named)
        owner.{name} = entered
    """


DEATHS = {
    "in a step": dying("bertgpt.trainer.Trainer", "terms", 2),
    "before weights move": dying("bertgpt.training.optimizers.Optimizers", "step", 3),
    "in a look at held-out rows": dying("bertgpt.callbacks.validation.HeldOut", "__call__"),
    "in a line of the journal": dying(
        "bertgpt.training.logger.Lines", "write", 2, """given[0].path.open("a").write('{"step": 6, "spl')"""
    ),
    "while it forgets lines": dying(
        "bertgpt.training.logger.Lines", "forget", 1, """given[0].path.with_suffix(".tmp").write_text('{"step')"""
    ),
    "while it removes a checkpoint": dying(
        "bertgpt.training.checkpoints.shutil", "rmtree", 3, "next(given[0].glob('MANIFEST*')).unlink()"
    ),
}


@pytest.mark.parametrize("death", DEATHS)
def test_killed_between_the_points(
    death: str, example: Example, tmp_path: Path, run: Run, elsewhere: Callable[..., Outcome]
) -> None:
    out = shutil.copytree(example.stopped, tmp_path / "run")
    done = elsewhere(example.argv(out), DEATHS[death])
    assert done.code == -signal.SIGKILL, done.err
    assert all(is_valid(folder) for folder in Checkpoints(out / "checkpoints").all())
    assert run(*example.argv(out)).code == 0
    assert_same(example.straight, out)
    assert not list(out.rglob(".*"))


def test_half_a_line_is_dropped(example: Example, tmp_path: Path, run: Run) -> None:
    """The line is of a step that is taken again, or of one that is not."""
    for number, half in enumerate(['{"step": 4, "tokens": 512, "spl', '{"step": 5', "{", "\0\0\0"]):
        out = shutil.copytree(example.stopped, tmp_path / str(number))
        with (out / "metrics.jsonl").open("a") as file:
            file.write(half)
        assert run(*example.argv(out)).code == 0
        assert_same(example.straight, out)

"""The task runner: results in the order of the tasks, reuse of completed ones, and an early stop."""

from contextlib import closing
from pathlib import Path

import pytest

from bertgpt.data.execution.tasks import Metadata, Pool, Task, TaskGroup, run_tasks
from bertgpt.data.execution.workdir import WorkDirectory


class Writer:
    """Writes its payload into a file."""

    def run(self, payload: str, path: Path) -> Metadata:
        path.write_text(payload)
        return {"documents": 1}


TASKS = [Task(f"{i}.txt", {"i": i}, 1, f"payload {i}") for i in range(12)]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_tasks(workers: int, tmp_path: Path) -> None:
    with WorkDirectory(tmp_path / "out", overwrite=False) as workdir:
        group = TaskGroup(Writer, (), workdir.folder({}, "files"), "code")
        workdir.pool = Pool(workers) if workers > 1 else None
        assert [result.name for result in workdir.run(group, TASKS, "writing")] == [task.name for task in TASKS]
        for task in TASKS:
            assert (group.folder / task.name).read_text() == task.payload


@pytest.mark.parametrize("workers", [1, 2])
def test_closing_the_iterator_starts_no_further_task(workers: int, tmp_path: Path) -> None:
    group = TaskGroup(Writer, (), tmp_path, "code")
    pool = Pool(workers) if workers > 1 else None
    with closing(run_tasks(group, TASKS, pool)) as results:
        next(results)
    written = {path.name for path in tmp_path.glob("*.txt")}
    assert 1 <= len(written) <= 2 * workers + 1 < len(TASKS)
    if pool is not None:
        pool.close()
    assert written == {path.name for path in tmp_path.glob("*.txt")}  # nothing was running any more
    assert not list(tmp_path.glob(".*"))


def test_completed_tasks_are_reused_until_identity_code_or_file_changes(tmp_path: Path) -> None:
    def written_again(group: TaskGroup, tasks: list[Task]) -> list[str]:
        before = {task.name: (tmp_path / task.name).stat().st_ino for task in tasks}
        assert len(list(run_tasks(group, tasks))) == len(tasks)
        return [name for name, inode in before.items() if (tmp_path / name).stat().st_ino != inode]

    group = TaskGroup(Writer, (), tmp_path, "code")
    list(run_tasks(group, TASKS))
    assert written_again(group, TASKS) == []
    (tmp_path / "3.txt").write_text("damaged")
    changed = [*TASKS[:7], Task("7.txt", {"i": 70}, 1, "payload 70"), *TASKS[8:]]
    assert written_again(group, changed) == ["3.txt", "7.txt"]
    assert written_again(TaskGroup(Writer, (), tmp_path, "other code"), TASKS) == [task.name for task in TASKS]

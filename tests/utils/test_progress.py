"""The progress line."""

from types import SimpleNamespace

import pytest

from bertgpt.utils import console


@pytest.mark.parametrize(
    ("total", "line"), [(0, "training: step 3, loss 2.5\n"), (6, "training: 50 %, step 3, loss 2.5, 0 s left\n")]
)
def test_line_with_and_without_a_known_total(
    total: int, line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "current", SimpleNamespace(quiet=False))
    progress = console.Progress("training", total, in_bytes=False)
    progress.shown = -10.0  # some seconds ago
    progress.update(3, step="step 3", loss="loss 2.5")
    assert capfd.readouterr().err == line

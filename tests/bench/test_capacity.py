"""The table of capacity: a row of it, on a gateway of its own."""

import pytest

import capacity

pytestmark = pytest.mark.process


@pytest.mark.parametrize("share", capacity.SHARES)
async def test_a_row(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(capacity, "DELAY_MS", 1)
    monkeypatch.setattr(capacity, "ANSWER_S", 0.1)
    report, size = await capacity.measured(4, share)
    assert report.is_clean
    assert report.requests == (20 if share == 1 else 4)
    cells = [cell.strip() for cell in capacity.row(4, share, report, size).strip("|").split("|")]
    assert cells[0] == "4"
    assert all(cell != "-" and not cell.startswith("0.0") for cell in cells)

"""What all tests share: the repository's paths and the order of cost."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_ORDER = {"unit": 0, "workflow": 1, "engines": 2, "browser": 3}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: units, then workflow, then engines and browser."""

    def cost(item: pytest.Item) -> int:
        parts = Path(item.fspath).relative_to(ROOT).parts
        return _ORDER.get(parts[1], 4) if len(parts) > 1 else 4

    items.sort(key=cost)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT

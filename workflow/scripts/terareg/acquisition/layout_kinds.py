"""The layouts of raw tiles that ``input.kind`` can name. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from terareg.acquisition.colm import ColmLayout
from terareg.acquisition.folders import FolderLayout
from terareg.acquisition.layout import Layout, LayoutOptions
from terareg.acquisition.table import GridOrder, TableLayout
from terareg.storage.store import Store


def _colm(raw: Store, source: Mapping, options: LayoutOptions) -> Layout:
    return ColmLayout(raw, options, source["view"])


def _folders(raw: Store, source: Mapping, options: LayoutOptions) -> Layout:
    return FolderLayout(raw, options, source["first_level"])


def _table(raw: Store, source: Mapping, options: LayoutOptions) -> Layout:
    grid = source["grid"]
    return TableLayout(raw, options, source["table"], None if grid is None else GridOrder(**grid))


_LAYOUTS: dict[str, Callable[[Store, Mapping, LayoutOptions], Layout]] = {
    "colm": _colm,
    "terastitcher": _folders,
    "table": _table,
}


def open_layout(source: Mapping) -> Layout:
    """Layout of a sample's raw tiles.

    Parameters
    ----------
    source : mapping
        ``input`` of the sample's complete configuration.
    """
    options = LayoutOptions(source["channels"], source["spacing_um"], source["overlap"])
    return _LAYOUTS[source["kind"]](Store(source["path"]), source, options)

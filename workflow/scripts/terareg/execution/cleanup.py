"""Removal of what a run has made, never of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from terareg.execution import derived_volumes, raw_data
from terareg.execution.inputs import ATLAS_SOURCES
from terareg.execution.own_files import own_files
from terareg.execution.run import Run
from terareg.storage import removal
from terareg.storage.store import Store
from terareg.volumes import headers


def clean_up(run: Run, find: Callable[[Sequence[Store]], list[removal.Removal]]) -> str:
    """List what ``find`` finds for each sample; remove it for the sample that is confirmed.

    Returns
    -------
    str
        Text for the user: what was found, and that it was removed or how to confirm the removal.

    Raises
    ------
    StoreError
        If an input of a sample lies among what would be removed.
    """
    return _clean_up(run, lambda sample: find(_places(run, sample)))


def remove_derived(run: Run) -> str:
    """As :func:`clean_up`, of derived volumes that the configuration no longer names."""

    def find(sample: str) -> list[removal.Removal]:
        kept = derived_volumes.entries(run, sample)
        return removal.find_derived(_places(run, sample), kept)

    return _clean_up(run, find)


def _clean_up(run: Run, find: Callable[[str], list[removal.Removal]]) -> str:
    # the results of one sample may be the input of another
    own = [address for sample in run.samples for address in _users_files(run, sample)]
    texts = []
    for sample, config in run.samples.items():
        found = find(sample)
        removal.protect(found, own)
        confirmed = config["confirm_removal"] == sample
        if confirmed:
            removal.remove(found)
        how = f"--config confirm_removal={sample}"
        texts.append(f"sample {sample}:\n{removal.removal_text(found, confirmed, how)}")
    return "\n".join(texts)


def _places(run: Run, sample: str) -> list[Store]:
    """Where a sample's files lie: the results that Snakemake tracks, and the store."""
    root = run.results if run.remote is None else f"{run.remote}/{run.results}"
    return [Store(root).child(sample), Store(run.samples[sample]["store"]).child(sample)]


def _users_files(run: Run, sample: str) -> list[str]:
    """Addresses of all inputs of a sample."""
    config = run.samples[sample]
    files = own_files(run, sample)
    for atlas in config["atlases"].values():
        files += [atlas[k] for k in ATLAS_SOURCES if atlas[k]]
        files += atlas["images"].values()
    for entry in derived_volumes.entries(run, sample).values():
        files += entry.files.values()
        files += [derived_volumes.address_of(run, entry)] if entry.address else []
    addresses = raw_data.raw_addresses(run, sample)
    if isinstance(addresses, dict):
        files += addresses.values()
    # a detached header, or one file of a set, is useless without the others
    files += [other for path in list(files) for other in headers.data_files(path)]
    if isinstance(addresses, dict):
        return files
    return files + [f"{addresses}/{name}" for name in raw_data.layout(run, sample).raw_keys()]

"""A run: the samples of one call of the workflow, and where their files lie.

All functions of this package that deal with files take a :class:`Run` and names; none of them knows
Snakemake. The module needs the standard library, PyYAML and jsonschema only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from terareg.core.errors import ConfigError
from terareg.core.extents import (
    aligned_channel,
    channels_of,
    measured_sides,
    registered_channels,
    sides_of,
)
from terareg.execution.config import check_files, check_shared, load_samples
from terareg.execution.yaml_files import read_yaml
from terareg.views.thresholds import merge_thresholds


@dataclass(frozen=True, eq=False)
class Run:
    """Samples of one call of the workflow.

    Attributes
    ----------
    samples : mapping of str to dict
        Complete configuration of every sample, see :func:`terareg.execution.config.load_samples`.
    remote : str or None
        Prefix of the remote storage in which Snakemake keeps tracked files, so that jobs see no
        local files; None where tracked files are local.
    comparisons : mapping of str to dict
        Complete configuration of every comparison of groups.
    alone : str
        Folder of the tracked files of a run without samples.
    """

    samples: Mapping[str, dict[str, Any]]
    remote: str | None = None
    comparisons: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    alone: str = "results"

    @property
    def results(self) -> str:
        """Folder of the tracked files."""
        return next((s["results"] for s in self.samples.values()), self.alone)

    @property
    def imported(self) -> list[str]:
        """Samples that are volumes already."""
        return [n for n, s in self.samples.items() if s["input"]["kind"] == "volume"]

    @property
    def tiled(self) -> list[str]:
        """Samples whose tiles have to be stitched."""
        return [n for n in self.samples if self.is_tiled(n)]

    @property
    def channels(self) -> list[str]:
        """Names of channels and of their sides, of all samples."""
        found = ([*channels_of(s), *s["input"]["channels"]] for s in self.samples.values())
        return sorted({name for names in found for name in names})

    @property
    def two_sided_channels(self) -> list[str]:
        """Names of channels that have two sides, of all samples."""
        return sorted({c for s in self.samples.values() for c in s["input"]["sides"]})

    @property
    def atlases(self) -> list[str]:
        """Names of atlases, of all samples."""
        return sorted({a for s in self.samples.values() for a in s["atlases"]})

    @property
    def atlas_images(self) -> list[str]:
        """Names of further images of atlases, of all samples."""
        found = (a["images"] for s in self.samples.values() for a in s["atlases"].values())
        return sorted({name for images in found for name in images})

    @property
    def points(self) -> list[str]:
        """Names of sets of points, of all samples."""
        return sorted({p for s in self.samples.values() for p in s["points"]})

    @property
    def exports(self) -> list[str]:
        """Names of exports, of all samples."""
        return sorted({e for s in self.samples.values() for e in s["export"]})

    @property
    def cells(self) -> list[str]:
        """Names of sets of cells, of all samples."""
        return sorted({c for s in self.samples.values() for c in s["cells"]})

    def is_imported(self, sample: str) -> bool:
        """Whether a sample is a volume already."""
        return bool(self.samples[sample]["input"]["kind"] == "volume")

    def is_tiled(self, sample: str) -> bool:
        """Whether a sample has tiles that have to be stitched."""
        return self.has_images(sample) and not self.is_imported(sample)

    def has_images(self, sample: str) -> bool:
        """Whether a sample has images of its own, and not only volumes derived from others."""
        return bool(self.samples[sample]["input"]["kind"] != "none")

    def option(self, sample: str, path: str) -> Any:
        """Value at a dotted path of a sample's configuration."""
        found: Any = self.samples[sample]
        for key in path.split("."):
            found = found[key]
        return found

    def path(self, sample: str, name: str) -> str:
        """A tracked file of a sample."""
        return f"{self.results}/{sample}/{name}"

    def channels_of(self, sample: str) -> list[str]:
        """Names of the channels of a sample."""
        return channels_of(self.samples[sample])

    def sides_of(self, sample: str, channel: str) -> list[str]:
        """Names of the sides of a channel, the first one as reference; its own if it has one."""
        return sides_of(self.samples[sample], channel)

    def all_sides(self, sample: str) -> list[str]:
        """Names of the sides of all channels, which are those under ``input.channels``."""
        return list(self.samples[sample]["input"]["channels"])

    def channel_of(self, sample: str, side: str) -> str:
        """The channel that a side belongs to."""
        return next(c for c in self.channels_of(sample) if side in self.sides_of(sample, c))

    def two_sided(self, sample: str) -> list[str]:
        """Names of the channels that have two sides."""
        return list(self.samples[sample]["input"]["sides"])

    def of_channels(self, sample: str, pattern: str) -> list[str]:
        """Tracked files of a sample for all channels; ``pattern`` has a {channel}."""
        return [self.path(sample, pattern.format(channel=c)) for c in self.channels_of(sample)]

    def of_sides(self, sample: str, pattern: str) -> list[str]:
        """Tracked files of a sample for all sides; ``pattern`` has a {channel}."""
        return [self.path(sample, pattern.format(channel=c)) for c in self.all_sides(sample)]

    def of_atlases(self, sample: str, pattern: str, chosen: list[str] | None = None) -> list[str]:
        """Tracked files for all or the chosen atlases of a sample; ``pattern`` has an {atlas}."""
        atlases = self.atlases_of(sample) if chosen is None else chosen
        return [self.path(sample, pattern.format(atlas=a)) for a in atlases]

    def atlas_path(self, atlas: str, name: str) -> str:
        """A file of a prepared atlas; atlases are shared by the samples of a run."""
        return f"{self.results}/atlases/{atlas}/{name}"

    def atlas(self, name: str) -> dict[str, Any]:
        """Description of an atlas; the samples that use the name must agree."""
        found: list[dict[str, Any]] = [
            s["atlases"][name] for s in self.samples.values() if name in s["atlases"]
        ]
        if any(other != found[0] for other in found[1:]):
            raise ConfigError(
                f"atlas {name!r} is described differently in two samples; give one of them "
                "another name"
            )
        return found[0]

    def users_of(self, atlas: str) -> list[str]:
        """Samples that use an atlas."""
        return [n for n, s in self.samples.items() if atlas in s["atlases"]]

    def atlases_of(self, sample: str) -> list[str]:
        """Atlases that are carried into a sample, registered or through another; or none."""
        if not self.has_images(sample):
            return []
        chosen = self.samples[sample]["registration"]["atlases"]
        return list(self.samples[sample]["atlases"]) if chosen is None else chosen

    def registered_atlases(self, sample: str) -> list[str]:
        """Those that the sample itself is registered to."""
        return [a for a in self.atlases_of(sample) if self.is_registered(a)]

    def is_registered(self, atlas: str) -> bool:
        """Whether samples are registered to an atlas, rather than reaching it through another."""
        return self.atlas(atlas)["through"] is None

    def registered_for(self, atlas: str) -> str:
        """The atlas whose registration an atlas needs: itself, or that which it is reached by."""
        through = self.atlas(atlas)["through"]
        return atlas if through is None else str(through["atlas"])

    @property
    def composed_atlases(self) -> list[str]:
        """Names of atlases that are reached through another one, of all samples."""
        described = [s["atlases"] for s in self.samples.values()]
        return sorted({n for each in described for n, a in each.items() if a["through"]})

    def atlases_with(self, sample: str, key: str) -> list[str]:
        """Atlases of a sample for which a section of the configuration gives something."""
        given = self.option(sample, key)
        return [a for a in self.atlases_of(sample) if a in given]

    def alignment_channel(self, sample: str) -> str:
        """The channel whose tiles are compared; the others take over its placement."""
        return aligned_channel(self.samples[sample])

    def alignment_side(self, sample: str) -> str:
        """The side of that channel whose tiles are compared: its first."""
        return self.sides_of(sample, self.alignment_channel(sample))[0]

    def measured_sides(self, sample: str) -> list[str]:
        """The sides of the alignment channel on which displacements are measured."""
        return measured_sides(self.samples[sample])

    def shifted_channels(self, sample: str) -> list[str]:
        """The channels, and sides, whose shift against others is measured or given."""
        if self.is_imported(sample) or self.option(sample, "stitching.channel_shift") == "none":
            return []
        return [c for c in self.all_sides(sample) if c != self.alignment_side(sample)]

    def shifted_against(self, sample: str, side: str) -> str:
        """What a side is compared with: the first of its channel, that one with the alignment's."""
        first = self.sides_of(sample, self.channel_of(sample, side))[0]
        return self.alignment_side(sample) if side == first else first

    def registration_channels(self, sample: str) -> list[str]:
        """The channels that are registered together; the first finds the pose."""
        return registered_channels(self.samples[sample])

    def measured_volume(self, sample: str) -> str:
        """The volume that later stages read: bias-corrected unless that is switched off."""
        corrected = self.samples[sample]["intensity"]["bias"]["enabled"]
        return "corrected_volume" if corrected else "fused"


def load_run(
    config: Mapping[str, Any], remote: str | None = None, files: Iterable[Path] = ()
) -> Run:
    """The run that a configuration describes.

    Parameters
    ----------
    config : mapping
        As Snakemake has merged it.
    remote : str or None
        See :class:`Run`.
    files : iterable of Path
        Files that it was read from: Snakemake silently takes the last of two equal keys.

    Raises
    ------
    ConfigError
        For anything in the configuration that is not possible, in itself or, with ``remote``, on
        machines that share no local files.
    """
    for path in files:
        if path.is_file():
            read_yaml(path)
    comparisons, results = _shared(config, remote)
    samples = load_samples({k: v for k, v in config.items() if k != "comparisons"})
    run = Run(samples, remote, comparisons, results)
    for sample, settings in run.samples.items():
        if settings.pop("comparisons"):
            raise ConfigError(
                f"sample {sample}: comparisons: belongs beside cohort:, or in a file of its own; "
                "move it there"
            )
        try:
            merge_thresholds(settings["report"]["thresholds"])
        except ConfigError as error:
            raise ConfigError(f"sample {sample}: {error}") from error
        if remote is not None:
            _check_reach(sample, settings, remote.rstrip("/"))
            continue
        try:
            # before Snakemake reports them missing without naming their key
            check_files(settings, (settings["results"], settings["store"]))
        except ConfigError as error:
            raise ConfigError(f"sample {sample}: {error}") from error
    return run


def _shared(config: Mapping[str, Any], remote: str | None) -> tuple[dict[str, Any], str]:
    """Comparisons with all defaults, and the folder of the results."""
    keys = ("comparisons", "results")
    shared = check_shared({key: config[key] for key in keys if key in config})
    comparisons: dict[str, Any] = shared["comparisons"]
    if comparisons and remote is not None:
        raise ConfigError(
            f"comparisons.{next(iter(comparisons))}: results in {remote} cannot be compared; copy "
            "the small files of the samples and run this section on one machine"
        )
    return comparisons, shared["results"]


def _check_reach(sample: str, settings: Mapping[str, Any], tracked: str) -> None:
    """Jobs must reach store and raw data; the store must not lie among the tracked files."""
    store = settings["store"]
    for key, address in (("store", store), ("input.path", settings["input"]["path"])):
        if address is not None and not address.startswith("s3://"):
            raise ConfigError(
                f"sample {sample}: {key}: {address} is a local folder, which jobs on other "
                "machines do not share; give s3://bucket/prefix"
            )
    table = settings["input"]["table"]
    if table is not None and table.startswith("/"):
        raise ConfigError(
            f"sample {sample}: input.table: {table} is a local file, which jobs on other machines "
            "do not share; copy it below input.path and give its name there"
        )
    for name, atlas in settings["atlases"].items():
        if atlas["name"] is not None:
            raise ConfigError(
                f"sample {sample}: atlases.{name}.name: {atlas['name']} is installed on this "
                "machine, which jobs on other machines do not share; copy its files to the remote "
                "storage and give template, annotation, ontology and orientation"
            )
    if f"{store}/".startswith(f"{tracked}/"):
        raise ConfigError(
            f"sample {sample}: store: {store} is among the tracked files in {tracked}, which "
            f"Snakemake lists one by one; give it a prefix of its own ({tracked}-volumes)"
        )

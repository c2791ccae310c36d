# What all rules share: samples, paths, batches, requests for memory and time.
# Standard library only, besides Snakemake's own dependencies: `snakemake --lint` needs no more.
import atexit
import hashlib
import json
import math
import os
import re
import sys
from collections import Counter
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import Quietness

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from terareg import planning, runplan, workload
from terareg.core import blas
from terareg.acquisition import raw
from terareg.acquisition.layout_kinds import open_layout
from terareg.execution.code_fingerprint import code_fingerprint
from terareg.execution.config import channel_image, check_files, load_samples, read_yaml
from terareg.core.errors import TeraregError
from terareg.storage import removal
from terareg.storage.store import Store
from terareg.views.thresholds import merge_thresholds
from terareg.volumes import headers

# of the jobs, which are processes of this one, wherever it runs
blas.pin_kernels(os.environ)

try:
    # Snakemake has read these files, but takes the last of two keys without a word
    for _path in workflow.config_settings.configfiles or ():
        if Path(_path).is_file():
            read_yaml(Path(_path))
    SAMPLES = load_samples(config)
except TeraregError as error:
    raise WorkflowError(str(error))

# samples that are volumes already; the others are tiles that have to be stitched
IMPORTED = [n for n, s in SAMPLES.items() if s["input"]["kind"] == "volume"]
TILED = [n for n in SAMPLES if n not in IMPORTED]

VERSION = "0.1.0"
RESULTS = next((s["results"] for s in SAMPLES.values()), "results")
CHANNELS = sorted({c for s in SAMPLES.values() for c in s["input"]["channels"]})
ATLASES = sorted({a for s in SAMPLES.values() for a in s["atlases"]})
ATLAS_IMAGES = sorted(
    {i for s in SAMPLES.values() for a in s["atlases"].values() for i in a["images"]}
)
POINTS = sorted({p for s in SAMPLES.values() for p in s["points"]})


def one_of(names):
    """Regular expression that matches just these names (and nothing if there are none)."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    kind="fused|corrected_volume",
    sample=one_of(SAMPLES),
    channel=one_of(CHANNELS),
    atlas=one_of(ATLASES),
    image=one_of(ATLAS_IMAGES),
    points=one_of(POINTS),
    batch=r"\d+",
    volume="(fused|corrected_volume|labels|atlas_space/[A-Za-z0-9_-]+)/[A-Za-z0-9_-]+",


# ------------------------------------------------------------------ paths
def result(path):
    """A tracked file of one sample."""
    return f"{RESULTS}/{{sample}}/{path}"


def log_of(name):
    return result(f"logs/{name}.log")


def benchmark_of(name):
    return result(f"benchmarks/{name}.tsv")


def record_of(name):
    """Address in the store where a job writes what it took."""

    def address(wildcards):
        store = SAMPLES[wildcards.sample]["store"]
        return f"{store}/{wildcards.sample}/logs/{name.format(**wildcards)}.json"

    return address


def atlas_file(name):
    """A file of a prepared atlas; atlases are shared by the samples of a run."""
    return f"{RESULTS}/atlases/{{atlas}}/{name}"


# ------------------------------------------------------------------ configuration
def code(rule_name):
    """Function of the wildcards: fingerprint of a rule's script and the library code it needs.

    A function, so that a job on a cluster reads the sources of its own rule only.
    """
    script = Path(workflow.basedir) / "scripts" / f"{rule_name}.py"
    return lambda wildcards: code_fingerprint(script)


def setting(path):
    """Function of the wildcards: the value at a dotted path of the sample's configuration."""

    def value(wildcards):
        found = SAMPLES[wildcards.sample]
        for key in path.split("."):
            found = found[key]
        return found

    return value


def atlas_setting(wildcards):
    """Description of an atlas; the samples that use the name must agree."""
    found = [
        s["atlases"][wildcards.atlas]
        for s in SAMPLES.values()
        if wildcards.atlas in s["atlases"]
    ]
    if any(other != found[0] for other in found[1:]):
        raise WorkflowError(
            f"atlas {wildcards.atlas!r} is described differently in two samples"
        )
    return found[0]


def alignment_channel(wildcards):
    """The channel whose tiles are compared; the others take over its placement."""
    return planning.aligned_channel(SAMPLES[wildcards.sample])


def registration_channels(wildcards):
    """The channels that are registered together; the first finds the pose."""
    return planning.registered_channels(SAMPLES[wildcards.sample])


def registration_atlases(sample):
    chosen = SAMPLES[sample]["registration"]["atlases"]
    return list(SAMPLES[sample]["atlases"]) if chosen is None else chosen


def measured_volume(wildcards):
    """The volume that later stages read: bias-corrected unless that is switched off."""
    corrected = SAMPLES[wildcards.sample]["intensity"]["bias"]["enabled"]
    return "corrected_volume" if corrected else "fused"


def streams(wildcards):
    """Whether tiles are corrected on the fly instead of being rewritten."""
    return SAMPLES[wildcards.sample]["intensity"]["corrected_tiles"] == "stream"


# ------------------------------------------------------------------ other machines
def remote_storage():
    """Whether Snakemake keeps files in remote storage, so that jobs see no local ones."""
    settings = workflow.storage_settings
    return bool(settings and settings.default_storage_provider)


def check_thresholds(sample):
    """Limits of the report are known before anything is judged by them."""
    try:
        merge_thresholds(SAMPLES[sample]["report"]["thresholds"])
    except TeraregError as error:
        raise WorkflowError(f"sample {sample}: {error}")


def check_reach(sample):
    """What jobs write and read must be where they run, and apart from the tracked files."""
    config = SAMPLES[sample]
    tracked = f"{workflow.storage_settings.default_storage_prefix}".rstrip("/")
    for key, address in (
        ("store", config["store"]),
        ("input.path", config["input"]["path"]),
    ):
        if address is not None and not address.startswith("s3://"):
            raise WorkflowError(
                f"sample {sample}: {key}: {address} is a local folder, which jobs on other "
                "machines do not share; give s3://bucket/prefix"
            )
    if f"{config['store']}/".startswith(f"{tracked}/"):
        raise WorkflowError(
            f"sample {sample}: store: {config['store']} lies among the tracked files in {tracked}, "
            f"which Snakemake lists one by one; give it a prefix of its own ({tracked}-volumes)"
        )


def check_own_files(sample):
    """Files of the user are there, before Snakemake misses them without naming their key."""
    config = SAMPLES[sample]
    try:
        check_files(config, (config["results"], config["store"]))
    except TeraregError as error:
        raise WorkflowError(f"sample {sample}: {error}")


for _name in SAMPLES:
    check_thresholds(_name)
    if remote_storage():
        check_reach(_name)
    else:
        check_own_files(_name)


# Snakemake takes {word} for a wildcard, also in what an input function returns
BRACES = re.compile(r"\{\s*\w")


def tracked(paths):
    """Files that Snakemake can follow; the state of the others is a parameter of their rules."""
    return [path for path in paths if not BRACES.search(path)]


def untracked_state(paths):
    """Size and time of the files that Snakemake cannot follow."""
    found = [Path(path) for path in paths if BRACES.search(path)]
    stats = [(str(path), path.stat()) for path in found if path.exists()]
    return [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]


# ------------------------------------------------------------------ raw data
@cache
def layout(sample):
    """Where a sample's raw tiles lie."""
    try:
        return open_layout(SAMPLES[sample]["input"])
    except TeraregError as error:
        raise WorkflowError(f"sample {sample}: {error}")


@cache
def survey(sample):
    """What is known of a sample's acquisition while the workflow is loaded."""
    try:
        return layout(sample).survey
    except TeraregError as error:
        raise WorkflowError(f"sample {sample}: {error}")


@cache
def raw_state_of(sample):
    try:
        return raw.raw_state(layout(sample))
    except TeraregError as error:
        raise WorkflowError(f"sample {sample}: {error}")


def raw_layout(wildcards):
    """Digest of names and sizes of all planes."""
    return raw_state_of(wildcards.sample).layout


def raw_state(wildcards, channel=None):
    """Digest of names, sizes and times of the planes of one channel."""
    number = layout(wildcards.sample).numbers()[channel or wildcards.channel]
    return raw_state_of(wildcards.sample).channels.get(number, "no such plane")


def alignment_raw_state(wildcards):
    return raw_state(wildcards, alignment_channel(wildcards))


def metadata_files(wildcards):
    """Files that say what tiles there are, where Snakemake can see them."""
    source = SAMPLES[wildcards.sample]["input"]["path"]
    if source.startswith("s3://") or remote_storage():
        return []
    return tracked(f"{source}/{n}" for n in layout(wildcards.sample).metadata)


# ------------------------------------------------------------------ input that is a volume already
def image_of(sample, channel):
    """Address of the image of a channel."""
    address = channel_image(SAMPLES[sample], channel)["path"]
    if remote_storage() and not address.startswith("s3://"):
        raise WorkflowError(
            f"sample {sample}: channel {channel}: {address} is a local path, which jobs on other "
            "machines cannot read; give an OME-Zarr or precomputed volume on s3://"
        )
    return address


image_state = cache(headers.image_state)


@cache
def image_headers(sample):
    """Headers of a sample's images by channel, on one grid."""
    source = SAMPLES[sample]["input"]
    try:
        found = {
            name: headers.read_header(image_of(sample, name), source["spacing_um"])
            for name in source["channels"]
        }
        headers.check_channels(found, source["orientation"])
    except TeraregError as error:
        raise WorkflowError(f"sample {sample}: {error}")
    return found


def sample_images(wildcards):
    """Local files of a sample's images, where Snakemake can see them."""
    names = SAMPLES[wildcards.sample]["input"]["channels"]
    found = [headers.image_files(image_of(wildcards.sample, name)) for name in names]
    return sorted({path for paths in found for path in tracked(paths)})


def sample_state(wildcards):
    """Digests of what the images of a sample consist of, by channel."""
    addresses = raw_addresses(wildcards.sample)
    return {name: image_state(address) for name, address in addresses.items()}


def channel_files(wildcards):
    return tracked(headers.image_files(image_of(wildcards.sample, wildcards.channel)))


def channel_state(wildcards):
    """Digest of names, sizes and times of what the image of a channel consists of."""
    return image_state(image_of(wildcards.sample, wildcards.channel))


# what is wrong with metadata or headers shows at once, not in an input function
for _name in SAMPLES:
    (image_headers if _name in IMPORTED else survey)(_name)


# ------------------------------------------------------------------ sizes and batches
def spacing_of(sample):
    """Voxel size (z, y, x) of the volume, micrometres."""
    if sample in IMPORTED:
        return next(iter(image_headers(sample).values())).spacing_um
    return survey(sample).spacing_um


@cache
def size(sample):
    """Amount of work of a sample, from its metadata."""
    if sample in IMPORTED:
        images = list(image_headers(sample).values())
        stored = {"uint8": 1, "uint16": 2, "float32": 4}
        return planning.Size(
            tiles=0,
            pairs=0,
            channels=len(images),
            tile_shape=(0, 0, 0),
            volume_shape=images[0].shape,
            bytes_per_voxel=max(stored[image.stored_dtype] for image in images),
            held_gb=max(image.held_bytes for image in images) / 1e9,
        )
    found = survey(sample)
    step = [n * (1 - o) for n, o in zip(found.tile_pixels, found.overlap)]
    return planning.Size(
        tiles=len(found.tiles),
        pairs=found.pairs(),
        channels=len(SAMPLES[sample]["input"]["channels"]),
        tile_shape=(found.planes, *found.tile_pixels),
        volume_shape=(
            found.planes,
            round(step[0] * (found.rows - 1) + found.tile_pixels[0]),
            round(step[1] * (found.columns - 1) + found.tile_pixels[1]),
        ),
    )


ALLEN_25_UM = planning.Grid((528, 320, 456), (25.0, 25.0, 25.0))


def grid_of_atlas(atlas, settings):
    """Grid of an atlas from the header of its annotation, for plans.

    What is wrong with a file, prepare_atlas says; until then it counts as a common one.
    """
    address = settings["annotation"]
    if remote_storage() and "://" not in address:
        address = f"{workflow.storage_settings.default_storage_prefix}/{address}"
    try:
        header = headers.read_header(address, settings["spacing_um"])
    except (TeraregError, OSError):
        return ALLEN_25_UM
    return planning.Grid(header.shape, header.spacing_um)


def check_extents(sample):
    """Sample and atlas are of one size, or one of them has the wrong unit."""
    for atlas, grid in brain(sample).atlases.items():
        if grid is ALLEN_25_UM:
            continue
        own = size(sample).volume_shape, spacing_of(sample)
        try:
            headers.check_extents(own, (grid.shape, grid.spacing_um), (sample, atlas))
        except TeraregError as error:
            raise WorkflowError(str(error))


@cache
def brain(sample):
    """A sample as plans see it."""
    tiled = sample in TILED
    settings = SAMPLES[sample]["atlases"]
    return planning.Brain(
        size=size(sample),
        config=SAMPLES[sample],
        grid=planning.Grid(size(sample).volume_shape, spacing_of(sample)),
        overlap=max(survey(sample).overlap) if tiled else 0.0,
        atlases={
            a: grid_of_atlas(a, settings[a]) for a in registration_atlases(sample)
        },
    )


for _name in SAMPLES:
    check_extents(_name)


def volume_batches(volume, sample):
    """Batches of any volume; a channel in the atlas is one job."""
    count = {
        "fused": planning.block_batches,
        "corrected_volume": planning.corrected_batches,
        "labels": planning.label_batches,
    }
    kind = volume.split("/")[0]
    return count[kind](brain(sample)) if kind in count else 1


def batch_files(pattern, count):
    """Input function: the files of all batches of a stage, ``count(brain)`` many."""

    def files(wildcards):
        number = count(brain(wildcards.sample))
        return expand(result(pattern), batch=range(number), **wildcards)

    return files


def of(count):
    """Function of the wildcards: number of batches of a stage."""
    return lambda wildcards: count(brain(wildcards.sample))


# ------------------------------------------------------------------ memory, threads and time
def brains(wildcards):
    """The sample of a job; all samples that use an atlas, for a job of the atlas."""
    if hasattr(wildcards, "sample"):
        return [brain(wildcards.sample)]
    return [brain(n) for n, s in SAMPLES.items() if wildcards.atlas in s["atlases"]]


def threads_of(rule_name):
    """CPUs of a job, of a number that AWS Batch offers."""

    def threads(wildcards):
        return max(workload.threads_of(rule_name, b) for b in brains(wildcards))

    return threads


def memory(rule_name):
    """Request for memory in MB, more with each attempt."""

    def mem_mb(wildcards, attempt, threads):
        mb = max(workload.request_mb(rule_name, b, threads) for b in brains(wildcards))
        # what is granted grows: a first attempt may have been given more than the job needs
        return planning.fit(planning.grow(planning.fit(mb, threads), attempt), threads)

    return mem_mb


def runtime(rule_name):
    """Time limit in minutes, doubled with each attempt."""

    def limit(wildcards, attempt):
        return max(workload.minutes(rule_name, b, attempt) for b in brains(wildcards))

    return limit


# ------------------------------------------------------------------ dry runs
def jobs_to_run():
    """Jobs of the run by sample and rule; those of an atlas count for its first sample."""
    found = {name: Counter() for name in SAMPLES}
    for job in workflow.dag.needrun_jobs(exclude_finished=False):
        of_job = job.wildcards_dict
        users = (n for n, s in SAMPLES.items() if of_job.get("atlas") in s["atlases"])
        sample = of_job.get("sample") or next(users, None)
        if sample is not None:
            found[sample][job.rule.name] += 1
    return found


def print_plan():
    """Say at the end of a dry run what the run would take."""
    if workflow.dryrun and Quietness.ALL not in (workflow.output_settings.quiet or ()):
        for name, jobs in jobs_to_run().items():
            if jobs:
                print(runplan.plan_text(name, brain(name), jobs), file=sys.stderr)


# Snakemake calls no handler in a dry run; when it ends, the jobs are known
atexit.register(print_plan)

# What all rules share: samples, paths, batches, requests for memory and time.
# Standard library only, besides Snakemake's own dependencies: `snakemake --lint` needs no more.
import hashlib
import json
import math
import re
import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from terareg import planning
from terareg.acquisition import metadata, raw
from terareg.code import code_fingerprint
from terareg.config import channel_image, load_samples
from terareg.errors import TeraregError
from terareg.storage.store import Store
from terareg.volumes import headers

try:
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
POINTS = sorted({p for s in SAMPLES.values() for p in s["points"]})


def one_of(names):
    """Regular expression that matches just these names (and nothing if there are none)."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    kind="fused|corrected_volume",
    sample=one_of(SAMPLES),
    channel=one_of(CHANNELS),
    atlas=one_of(ATLASES),
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


def atlas_file(name):
    """A file of a prepared atlas; atlases are shared by the samples of a run."""
    return f"{RESULTS}/atlases/{{atlas}}/{name}"


# ------------------------------------------------------------------ configuration
def code(rule_name):
    """Fingerprint of the script of a rule and of the library code that it needs."""
    return code_fingerprint(Path(workflow.basedir) / "scripts" / f"{rule_name}.py")


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
    sample = SAMPLES[wildcards.sample]
    return sample["stitching"]["channel"] or next(iter(sample["input"]["channels"]))


def registration_channel(wildcards):
    sample = SAMPLES[wildcards.sample]
    return sample["registration"]["channel"] or alignment_channel(wildcards)


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


if remote_storage():
    for _name in SAMPLES:
        check_reach(_name)


# ------------------------------------------------------------------ raw data
@cache
def colm(sample):
    """Metadata of a sample's acquisition, read while the workflow is loaded."""
    source = SAMPLES[sample]["input"]
    options = {"spacing_um": source["spacing_um"], "overlap": source["overlap"]}
    try:
        return metadata.load_colm_metadata(Store(source["path"]), **options)
    except TeraregError as error:
        raise WorkflowError(f"sample {sample}: {error}")


@cache
def raw_state_of(sample):
    source = SAMPLES[sample]["input"]
    store = Store(source["path"])
    folders = [f"{source['view']}/{name}" for name in metadata.tile_names(colm(sample))]
    try:
        return raw.raw_state(store, folders)
    except TeraregError as error:
        raise WorkflowError(f"sample {sample}: {error}")


def raw_layout(wildcards):
    """Digest of names and sizes of all planes."""
    return raw_state_of(wildcards.sample).layout


def raw_state(wildcards, channel=None):
    """Digest of names, sizes and times of the planes of one channel."""
    channels = SAMPLES[wildcards.sample]["input"]["channels"]
    number = channels[channel or wildcards.channel]
    return raw_state_of(wildcards.sample).channels.get(number, "no such plane")


def alignment_raw_state(wildcards):
    return raw_state(wildcards, alignment_channel(wildcards))


def metadata_files(wildcards):
    """The two metadata files, where Snakemake can see them."""
    source = SAMPLES[wildcards.sample]["input"]["path"]
    if source.startswith("s3://") or remote_storage():
        return []
    return [f"{source}/Experiment.ini", f"{source}/Scanned Cells.txt"]


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
    return sorted({path for paths in found for path in paths})


def sample_state(wildcards):
    """Digests of what the images of a sample consist of, by channel."""
    addresses = raw_addresses(wildcards.sample)
    return {name: image_state(address) for name, address in addresses.items()}


def channel_files(wildcards):
    return headers.image_files(image_of(wildcards.sample, wildcards.channel))


def channel_state(wildcards):
    """Digest of names, sizes and times of what the image of a channel consists of."""
    return image_state(image_of(wildcards.sample, wildcards.channel))


# what is wrong with metadata or headers shows at once, not in an input function
for _name in SAMPLES:
    (image_headers if _name in IMPORTED else colm)(_name)


# ------------------------------------------------------------------ sizes and batches
def spacing_of(sample):
    """Voxel size (z, y, x) of the volume, micrometres."""
    if sample in IMPORTED:
        return next(iter(image_headers(sample).values())).spacing_um
    return colm(sample).spacing_um


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
    meta = colm(sample)
    step = [n * (1 - o) for n, o in zip(meta.tile_pixels, meta.overlap)]
    return planning.Size(
        tiles=len(metadata.tile_names(meta)),
        pairs=len(metadata.neighbour_pairs(meta.scanned)),
        channels=len(SAMPLES[sample]["input"]["channels"]),
        tile_shape=(meta.planes, *meta.tile_pixels),
        volume_shape=(
            meta.planes,
            round(step[0] * (meta.rows - 1) + meta.tile_pixels[0]),
            round(step[1] * (meta.columns - 1) + meta.tile_pixels[1]),
        ),
    )


def gb_per_job(sample):
    return SAMPLES[sample]["jobs"]["gb_per_job"]


def tile_batches(sample):
    work = size(sample)
    return planning.batches(work.channel_gb, work.tiles, gb_per_job(sample))


def sum_batches(sample):
    """Batches of the flat-field's statistics: sampled tiles, sampled planes."""
    work, options = size(sample), SAMPLES[sample]["intensity"]["flatfield"]
    step = 1 if options["tiles"] == "all" else options["tiles"]
    tiles = -(-work.tiles // step)
    share = min(1.0, (options["planes"] or work.tile_shape[0]) / work.tile_shape[0])
    return planning.batches(work.tile_gb * tiles * share, tiles, gb_per_job(sample))


def label_batches(sample):
    """Batches of the label volume, whose voxels are coarser and take four bytes."""
    config, work = SAMPLES[sample], size(sample)
    resolution = config["labels"]["resolution_um"]
    factor = math.prod(max(1.0, resolution / s) for s in spacing_of(sample))
    blocks = max(1, round(block_count(sample) / factor))
    return planning.batches(2 * work.volume_gb / factor, blocks, gb_per_job(sample))


def pair_batches(sample):
    work = size(sample)
    pairs = max(1, work.pairs)
    return planning.batches(2 * work.tile_gb * pairs, pairs, gb_per_job(sample))


def block_count(sample):
    block = SAMPLES[sample]["volume"]["block"]
    return math.prod(-(-n // block) for n in size(sample).volume_shape)


def block_batches(sample):
    return planning.batches(
        size(sample).volume_gb, block_count(sample), gb_per_job(sample)
    )


def volume_batches(volume, sample):
    """Batches of any volume; a channel in the atlas is one job."""
    count = {
        "fused": block_batches,
        "corrected_volume": block_batches,
        "labels": label_batches,
    }
    kind = volume.split("/")[0]
    return count[kind](sample) if kind in count else 1


def batch_files(pattern, count):
    """Input function: the files of all batches of a stage, ``count(sample)`` many."""

    def files(wildcards):
        number = count(wildcards.sample)
        return expand(result(pattern), batch=range(number), **wildcards)

    return files


def of(count):
    """Function of the wildcards: number of batches of a stage."""
    return lambda wildcards: count(wildcards.sample)


# ------------------------------------------------------------------ memory, threads and time
def threads_of(kind):
    """Threads for heavy or light jobs, of a number that AWS Batch offers."""
    light = kind == "light"
    most = max((s["jobs"]["threads"] for s in SAMPLES.values()), default=4)
    return 1 if light else planning.fit_threads(most)


def memory(model):
    """Request for memory: ``model(size, config, threads)`` in MB, more with each attempt."""

    def mem_mb(wildcards, attempt, threads):
        sample = getattr(wildcards, "sample", None)
        mb = model(size(sample), SAMPLES[sample], threads) if sample else 4000
        # what is granted grows: a first attempt may have been given more than the model asks
        return planning.fit(planning.grow(planning.fit(mb, threads), attempt), threads)

    return mem_mb


def runtime(gigabytes, least=30):
    """Time limit in minutes from ``gigabytes(size, config)`` moved, doubled with each attempt."""

    def limit(wildcards, attempt):
        sample = getattr(wildcards, "sample", None)
        gb = gigabytes(size(sample), SAMPLES[sample]) if sample else 1.0
        return planning.minutes(gb, attempt, least=least)

    return limit


def small(work, config, threads):
    return planning.small_job_mb()


def planes(work, config, threads):
    return planning.plane_job_mb(work, threads)


def strips(work, config, threads):
    options = config["stitching"]["displacement"]
    overlap = max(colm(config["sample"]).overlap)
    return planning.pair_job_mb(work, threads, overlap, options["window_planes"])


def blocks(work, config, threads):
    return planning.block_job_mb(
        work, threads, (config["volume"]["block"],) * 3, extra=1.5
    )


def held_image(work, config, threads):
    """Blocks, beside an image file that is read whole."""
    return blocks(work, config, threads) + 1000 * work.held_gb


def whole_image(resolution_key, copies):
    """Model of a job that holds ``copies`` images of the sample at a working resolution."""

    def model(work, config, threads):
        spacing = spacing_of(config["sample"])
        resolution = config
        for key in resolution_key.split("."):
            resolution = resolution[key]
        # None is a share of the brain: 1/160 of its length is finer than that
        length = max(n * s for n, s in zip(work.volume_shape, spacing))
        return planning.image_job_mb(work, spacing, resolution or length / 160, copies)

    return model


def nothing(work, config):
    return 0.0


def one_batch(work, config):
    """Raw gigabytes of the largest batch."""
    return max(config["jobs"]["gb_per_job"], work.channel_gb / planning.MAX_BATCHES)


def one_volume(work, config):
    return work.volume_gb * work.channels / 8

# Shared by all rules: the run, paths, and adaptors that pass wildcards to library functions.
# Standard library only, besides Snakemake's own dependencies: `snakemake --lint` needs no more.
import atexit
import os
import re
import time

from terareg.core import blas
from terareg.core.errors import TeraregError
from terareg.core.orientation import VIEWS
from terareg.execution import (
    cleanup,
    comparisons,
    derived_volumes,
    inputs,
    known_transforms,
    made,
    own_files,
    provenance,
    raw_data,
    requests,
    run_plan,
    sizing,
    targets,
)
from terareg.execution.code_fingerprint import code_fingerprint
from terareg.execution.job_lines import JobLines
from terareg.execution.run import Run, load_run
from terareg.intensity import cost as intensity_cost
from terareg.regions import cost as regions_cost
from terareg.signal import cost as signal_cost
from terareg.stitching import cost as stitching_cost
from terareg.storage import removal
from terareg.volumes import cost as volumes_cost


def guarded(function, *arguments):
    """Call a library function; its errors become Snakemake errors, without a traceback."""
    try:
        return function(*arguments)
    except TeraregError as error:
        raise WorkflowError(str(error))


# set here, since jobs are processes started from this one, wherever it runs, and inherit it
blas.pin_kernels(os.environ)

if screen() is not None:
    screen().addFilter(JobLines(screen(), is_dry))

START = time.time()
RUN = guarded(load_run, config, remote_prefix(), config_files())
SAMPLES = RUN.samples
if not SAMPLES and not RUN.comparisons and not is_linted():
    raise WorkflowError(
        "no sample is configured, so there is nothing to do; give a sample file "
        "(snakemake --configfile sample.yaml) or set sample: in config/config.yaml"
    )
guarded(raw_data.check, RUN)
guarded(comparisons.check, RUN)
guarded(sizing.check_extents, RUN)
guarded(sizing.check_cells, RUN)
guarded(known_transforms.check, RUN)


def one_of(names):
    """Regular expression that matches only these names (and nothing if there are none)."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    kind="fused|corrected_volume",
    sample=one_of(SAMPLES),
    channel=one_of(RUN.channels),
    atlas=one_of(RUN.atlases),
    image=one_of(RUN.atlas_images),
    points=one_of(RUN.points),
    derived=one_of(derived_volumes.names(RUN)),
    export=one_of(RUN.exports),
    cells=one_of(RUN.cells),
    comparison=one_of(RUN.comparisons),
    map=one_of(guarded(comparisons.every_map, RUN)),
    own=one_of(guarded(own_files.names_of_copies, RUN)),
    batch=r"\d+",
    objects="(labels|derived|cells)/[A-Za-z0-9_-]+",
    volume="(fused|corrected_volume|labels|derived|atlas_space/[A-Za-z0-9_-]+)/[A-Za-z0-9_-]+",


# ------------------------------------------------------------------ paths
def result(path):
    """A tracked file of one sample."""
    return f"{RUN.results}/{{sample}}/{path}"


def atlas_file(name):
    """A file of a prepared atlas; atlases are shared by the samples of a run."""
    return f"{RUN.results}/atlases/{{atlas}}/{name}"


def registration_files():
    """Output files of a registration, by the names that scripts use."""
    named = inputs.REGISTRATION_FILES.items()
    return {key: result(f"registration/{{atlas}}/{name}") for key, name in named}


def composed_files():
    """Output files of a composition, by the names that scripts use."""
    named = inputs.COMPOSED_FILES.items()
    return {key: result(f"registration/{{atlas}}/{name}") for key, name in named}


def error_files():
    """Files with the error bars of a registration, by the names that scripts use."""
    named = inputs.ERROR_FILES.items()
    return {key: result(f"registration/{{atlas}}/{name}") for key, name in named}


def cohort_file(name):
    """A tracked file of a comparison, which belongs to no sample."""
    return f"{comparisons.folder(RUN)}/{{comparison}}/{name}"


def log_of(name):
    return result(f"logs/{name}.log")


def benchmark_of(name):
    return result(f"benchmarks/{name}.tsv")


def record_of(name):
    """Where in the store a job records its resource use, and the folder of its sample's files."""

    def record(wildcards):
        sample = wildcards.sample
        return {
            "store": f"{SAMPLES[sample]['store']}/{sample}",
            "name": name.format(**wildcards),
            "root": f"{RUN.results}/{sample}",
        }

    return record


def cohort_record(name):
    """The same of a job of a comparison, beside its files."""

    def record(wildcards):
        root = comparisons.folder(RUN, wildcards.comparison)
        return {"store": root, "name": name.format(**wildcards), "root": root}

    return record


# ------------------------------------------------------------------ functions of the wildcards
def of_wildcards(*names):
    """Adaptor: turn a function of the run and these names into an input function of wildcards."""

    def adaptor(function, *more):
        def value(wildcards):
            chosen = (wildcards[name] for name in names)
            return guarded(function, RUN, *chosen, *more)

        return value

    return adaptor


of_sample = of_wildcards("sample")
of_channel = of_wildcards("sample", "channel")
of_volume = of_wildcards("sample", "volume")
of_objects = of_wildcards("sample", "objects")
of_registration = of_wildcards("sample", "atlas")
of_atlas = of_wildcards("atlas")
of_image = of_wildcards("atlas", "image")
of_points = of_wildcards("sample", "points")
of_derived = of_wildcards("sample", "derived")
of_export = of_wildcards("sample", "export")
of_cells = of_wildcards("sample", "cells")
of_comparison = of_wildcards("comparison")
of_map = of_wildcards("comparison", "map")
of_own = of_wildcards("sample", "own")


def setting(path):
    """The value at a dotted path of the sample's configuration."""
    return of_sample(lambda run, sample: run.option(sample, path))


def batches(count):
    """Number of batches of a stage, from ``count(sample)``."""
    return of_sample(sizing.batches_of, count)


def batch_files(pattern, count):
    """The files of all batches of a stage."""

    def files(wildcards):
        names = dict(wildcards.items())
        return guarded(inputs.batch_files, RUN, names["sample"], pattern, count, names)

    return files


def code(rule_name):
    """Fingerprint of a rule's script and the library code it needs.

    A function, so that a job on a cluster reads the sources of its own rule only.
    """
    script = scripts_folder() / f"{rule_name}.py"
    return lambda wildcards: code_fingerprint(script)


def possibly_temporary(path):
    """Batches of corrected tiles are temporary files if the configuration says so."""
    return temp(path) if guarded(inputs.temporary_tiles, RUN) else path


# ------------------------------------------------------------------ memory, threads and time
def users_of_job(wildcards):
    names = ("sample", "atlas", "comparison")
    sample, atlas, comparison = (wildcards.get(name) for name in names)
    if sample is None and atlas is None:
        return [guarded(comparisons.sized, RUN, comparison)]
    return guarded(sizing.users_of_job, RUN, sample, atlas)


def threads_of(rule_name):
    """CPUs of a job, a number that AWS Batch offers."""
    return lambda wildcards: max(
        requests.threads_of(rule_name, user) for user in users_of_job(wildcards)
    )


def memory(rule_name):
    """Request for memory in MB, more with each attempt."""

    def mem_mb(wildcards, attempt, threads):
        users = users_of_job(wildcards)
        need = max(requests.request_mb(rule_name, user, threads) for user in users)
        return requests.granted_mb(need, threads, attempt)

    return mem_mb


def runtime(rule_name):
    """Time limit in minutes, doubled with each attempt."""
    return lambda wildcards, attempt: max(
        requests.minutes(rule_name, user, attempt) for user in users_of_job(wildcards)
    )


# ------------------------------------------------------------------ targets
def for_samples(files):
    """Checked input and ``files(run, sample)`` of all samples, in one list."""

    def wanted(wildcards):
        checked = [RUN.path(sample, "inputs.json") for sample in SAMPLES]
        made = (guarded(files, RUN, sample) for sample in SAMPLES)
        return checked + [path for paths in made for path in paths]

    return wanted


def removal_of(log, function, *arguments):
    """List what a function finds of every sample; remove it of the sample that is confirmed."""
    text = guarded(function, RUN, *arguments)
    Path(log).write_text(text)
    print(text, flush=True)


def planned_run():
    """The plan of a complete run, as readable text."""
    sized = {name: guarded(sizing.sized, RUN, name) for name in SAMPLES}
    return "\n".join(run_plan.plan_text(name, sample) for name, sample in sized.items())


# ------------------------------------------------------------------ dry runs
def sample_of_job(wildcards):
    """The sample to which a job is attributed; for an atlas, the first sample that uses it."""
    users = RUN.users_of(wildcards["atlas"]) if "atlas" in wildcards else ()
    return wildcards.get("sample") or next(iter(users), None)


def print_plan():
    """Print at the end of a dry run what the run would need."""
    if shows_plan():
        for name, jobs in jobs_to_run(sample_of_job).items():
            text = run_plan.plan_text(name, sizing.sized(RUN, name), jobs)
            print(text, file=sys.stderr)


# Snakemake calls no handler in a dry run; at exit the jobs are known
atexit.register(print_plan)


onsuccess:
    print(made.what_to_look_at(RUN, START), end="", file=sys.stderr)

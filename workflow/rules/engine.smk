# The only place that uses Snakemake's internals; tests/workflow/test_engine.py shows what breaks
# when an upgrade changes them.
import logging
import re
import sys
from collections import Counter
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import Quietness


def check_places():
    """Raise if Snakemake cannot start jobs from where Python or the workflow lie."""
    if " " in sys.executable:
        raise WorkflowError(
            f"the environment is in a folder with a blank in its path ({sys.executable}), "
            "from which no job can start; create it in a path without blanks"
        )
    if re.search(r"\{\s*\w", str(scripts_folder())):
        raise WorkflowError(
            f"the workflow is in a folder with a word in braces ({scripts_folder()}), which "
            "Snakemake takes for a wildcard; clone it to a path without braces (data, samples and "
            "the folder of a run may have them)"
        )


def scripts_folder():
    """Folder of the scripts and the library, also if another workflow uses this one as a module."""
    here = workflow.current_basedir.get_path_or_uri(secret_free=True)
    folder = Path(here).parent / "scripts"
    if not folder.is_dir():
        raise WorkflowError(
            f"{here}: the library beside these rules cannot be read from here; clone the "
            "repository and give the module the path of workflow/Snakefile in the clone"
        )
    return folder


def remote_prefix():
    """Prefix of the remote storage of tracked files, or None; with one, jobs see no local files."""
    settings = workflow.storage_settings
    if settings and settings.default_storage_provider:
        return f"{settings.default_storage_prefix}"
    return None


def config_files():
    """Files from which the configuration was read."""
    return [Path(path) for path in workflow.config_settings.configfiles or ()]


def is_linted():
    """Whether the rules are only linted, as the public catalogue does without a sample."""
    return "--lint" in sys.argv


def shows_plan():
    """Whether this is a dry run that is not silenced."""
    return workflow.dryrun and Quietness.ALL not in (
        workflow.output_settings.quiet or ()
    )


def jobs_to_run(sample_of):
    """Jobs of the run by sample and rule; ``sample_of`` maps a job's wildcards to its sample."""
    found = {}
    for job in workflow.dag.needrun_jobs(exclude_finished=False):
        name = sample_of(job.wildcards_dict)
        if name is not None:
            found.setdefault(name, Counter())[job.rule.name] += 1
    return found


def screen():
    """The handler that shows the jobs of a run; None in a job, or in another workflow."""
    own = (
        Path(workflow.main_snakefile).resolve().parent
        == scripts_folder().resolve().parent
    )
    if not own or not workflow.is_main_process or workflow.output_settings.verbose:
        return None
    handlers = logging.getLogger("snakemake.logging").handlers
    return next((h for h in handlers if h.name == "DefaultStreamHandler"), None)


def is_dry():
    """Whether this is a dry run; not known before all rules are read."""
    return workflow.dryrun


check_places()
sys.path.insert(0, str(scripts_folder()))

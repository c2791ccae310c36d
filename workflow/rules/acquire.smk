# Acquisition: what the microscope wrote, checked before anything else runs.


rule index_acquisition:
    """Check the raw data of a sample against its metadata, and describe the acquisition."""
    input:
        metadata=of_sample(raw_data.metadata_files),
    output:
        acquisition=result("acquisition.json"),
    log:
        log_of("index_acquisition"),
    benchmark:
        benchmark_of("index_acquisition")
    wildcard_constraints:
        sample=one_of(RUN.tiled),
    priority: 100
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("index_acquisition")
    resources:
        mem_mb=memory("index_acquisition"),
        runtime=runtime("index_acquisition"),
    params:
        code=code("index_acquisition"),
        record=record_of("index_acquisition"),
        settings=of_sample(inputs.indexed_settings),
        raw_layout=of_sample(raw_data.raw_layout),
        metadata_state=of_sample(raw_data.metadata_state),
    script:
        "../scripts/index_acquisition.py"


rule copy_own_file:
    """Copy a file of the user whose path has a word in braces, which Snakemake cannot follow."""
    output:
        file=result("own/{own}"),
    log:
        log_of("copy_own_file/{own}"),
    benchmark:
        benchmark_of("copy_own_file/{own}")
    priority: 100
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("copy_own_file")
    resources:
        mem_mb=memory("copy_own_file"),
        runtime=runtime("copy_own_file"),
    params:
        code=code("copy_own_file"),
        record=record_of("copy_own_file/{own}"),
        path=of_own(own_files.copied_file),
        state=of_own(own_files.copied_state),
    script:
        "../scripts/copy_own_file.py"


rule check_inputs:
    """Check the user's other files besides the raw data, and that the store has enough free space.

    Every target requires it, and its priority puts it before all other work. No other rule reads
    its output, so that nothing reruns because of it. (An input marked ancient would not do:
    Snakemake 9 ignores other reasons to run the rules behind one.)
    """
    input:
        index=of_sample(inputs.index_file),
        tables=of_sample(own_files.followed_tables),
        labels=of_sample(own_files.followed_labels),
    output:
        checked=result("inputs.json"),
    log:
        log_of("check_inputs"),
    benchmark:
        benchmark_of("check_inputs")
    priority: 100
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("check_inputs")
    resources:
        mem_mb=memory("check_inputs"),
        runtime=runtime("check_inputs"),
    params:
        code=code("check_inputs"),
        record=record_of("check_inputs"),
        kind=setting("input.kind"),
        config=of_sample(inputs.checked_settings),
        tables=of_sample(own_files.own_tables),
        labels=of_sample(own_files.followed_labels),
        labels_state=of_sample(own_files.labels_state),
        needed_gb=batches(run_plan.store_gb),
    script:
        "../scripts/check_inputs.py"

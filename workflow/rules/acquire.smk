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
        settings=setting("input"),
        raw_layout=of_sample(raw_data.raw_layout),
    script:
        "../scripts/index_acquisition.py"


rule check_inputs:
    """Check what the user gives beside the raw data, and that the store has room for the results.

    Every target asks for it, and its priority puts it before all work; no other rule reads it, so
    that nothing runs again for it. (An edge marked ancient would not do: Snakemake 9 does not look
    for other reasons to run what lies behind one.)
    """
    input:
        index=of_sample(inputs.index_file),
        own=of_sample(inputs.own_files),
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
        own=of_sample(inputs.own_files),
        needed_gb=batches(run_plan.store_gb),
    script:
        "../scripts/check_inputs.py"

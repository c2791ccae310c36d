# Acquisition: what the microscope wrote, checked before anything else runs.


rule index_acquisition:
    """Check the raw data and all other input of a sample, and describe the acquisition.

    Everything that can be wrong with a sample and shows without hours of work shows here.
    """
    input:
        metadata=metadata_files,
        own=own_files,
    output:
        acquisition=result("acquisition.json"),
    log:
        log_of("index_acquisition"),
    benchmark:
        benchmark_of("index_acquisition")
    priority: 100
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("light")
    resources:
        mem_mb=memory(small),
        runtime=runtime(nothing),
    params:
        code=code("index_acquisition"),
        config=lambda wildcards: input_settings(wildcards.sample),
        own=own_files,
        raw_state=raw_state,
        needed_gb=lambda wildcards: store_gb(wildcards.sample),
    script:
        "../scripts/index_acquisition.py"

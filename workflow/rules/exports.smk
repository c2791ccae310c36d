# Files for other programs: volumes, labels and maps at a resolution, with tables of regions.


rule export_volume:
    """Write a volume, labels or a map as one NIfTI, NRRD or OME-TIFF file."""
    input:
        unpack(of_export(inputs.export_source)),
    output:
        image=result("exports/{export}.{ending}"),
        record=result("exports/{export}.{ending}.json"),
    log:
        log_of("export_volume/{export}_{ending}"),
    benchmark:
        benchmark_of("export_volume/{export}_{ending}")
    wildcard_constraints:
        ending=one_of(inputs.ENDINGS.values()),
    conda:
        "../envs/regions.yaml"
    threads: threads_of("export_volume")
    resources:
        mem_mb=memory("export_volume"),
        runtime=runtime("export_volume"),
    params:
        code=code("export_volume"),
        record=record_of("export_volume/{export}_{ending}"),
        store=setting("store"),
        settings=of_export(inputs.export_settings),
    script:
        "../scripts/export_volume.py"


rule export_planes:
    """Write a volume, labels or a map as files of planes, tiles or blocks, in the store."""
    input:
        unpack(of_export(inputs.export_source)),
    output:
        record=result("exports/{export}.planes.json"),
    log:
        log_of("export_planes/{export}"),
    benchmark:
        benchmark_of("export_planes/{export}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("export_planes")
    resources:
        mem_mb=memory("export_planes"),
        runtime=runtime("export_planes"),
    params:
        code=code("export_planes"),
        record=record_of("export_planes/{export}"),
        store=setting("store"),
        settings=of_export(inputs.export_settings),
    script:
        "../scripts/export_planes.py"


rule export_regions:
    """Write tables of the regions of an export: values, names, colours; also for ITK-SNAP."""
    input:
        unpack(of_export(inputs.export_atlas)),
    output:
        table=result("exports/{export}.regions.tsv"),
        itksnap=result("exports/{export}.itksnap.txt"),
    log:
        log_of("export_regions/{export}"),
    benchmark:
        benchmark_of("export_regions/{export}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("export_regions")
    resources:
        mem_mb=memory("export_regions"),
        runtime=runtime("export_regions"),
    params:
        code=code("export_regions"),
        record=record_of("export_regions/{export}"),
        settings=of_export(inputs.export_settings),
    script:
        "../scripts/export_regions.py"


rule export_bids:
    """Make a BIDS microscopy dataset of a sample, in the store."""
    input:
        plans=of_sample(inputs.fused_files, "plan.json"),
        complete=of_sample(inputs.fused_files, "complete.json"),
    output:
        record=result("bids.json"),
    log:
        log_of("export_bids"),
    benchmark:
        benchmark_of("export_bids")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("export_bids")
    resources:
        mem_mb=memory("export_bids"),
        runtime=runtime("export_bids"),
    params:
        code=code("export_bids"),
        record=record_of("export_bids"),
        store=setting("store"),
        settings=setting("bids"),
        channels=of_sample(Run.channels_of),
    script:
        "../scripts/export_bids.py"

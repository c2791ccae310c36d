# Input that is a volume already: its images, written into the store as fused volumes are.


rule index_input:
    """Describe the images of a sample that is a volume already, from their headers."""
    input:
        images=sample_images,
    output:
        index=result("input.json"),
    log:
        log_of("index_input"),
    benchmark:
        benchmark_of("index_input")
    wildcard_constraints:
        sample=one_of(IMPORTED),
    priority: 100
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("index_input")
    resources:
        mem_mb=memory("index_input"),
        runtime=runtime("index_input"),
    params:
        code=code("index_input"),
        record=record_of("index_input"),
        images=lambda wildcards: raw_addresses(wildcards.sample),
        raw_state=sample_state,
        spacing_um=setting("input.spacing_um"),
        orientation=setting("input.orientation"),
    script:
        "../scripts/index_input.py"


rule init_import:
    """Plan the volume of an imported channel and write its metadata."""
    input:
        index=result("input.json"),
    output:
        plan=result("fused/{channel}/plan.json"),
    log:
        log_of("init_import/{channel}"),
    benchmark:
        benchmark_of("init_import/{channel}")
    wildcard_constraints:
        sample=one_of(IMPORTED),
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("init_import")
    resources:
        mem_mb=memory("init_import"),
        runtime=runtime("init_import"),
    params:
        code=code("init_import"),
        record=record_of("init_import/{channel}"),
        store=setting("store"),
        volume=setting("volume"),
    script:
        "../scripts/init_import.py"


rule import_volume:
    """Import one batch of blocks of a channel: read the image, write the finest levels."""
    input:
        image=channel_files,
        plan=result("fused/{channel}/plan.json"),
    output:
        batch=result("fused/{channel}/batches/{batch}.json"),
    log:
        log_of("import_volume/{channel}_{batch}"),
    benchmark:
        benchmark_of("import_volume/{channel}_{batch}")
    wildcard_constraints:
        sample=one_of(IMPORTED),
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("import_volume")
    resources:
        mem_mb=memory("import_volume"),
        runtime=runtime("import_volume"),
    params:
        code=code("import_volume"),
        record=record_of("import_volume/{channel}_{batch}"),
        store=setting("store"),
        image=lambda wildcards: channel_image(
            SAMPLES[wildcards.sample], wildcards.channel
        ),
        batches=of(planning.block_batches),
        raw_state=channel_state,
    script:
        "../scripts/import_volume.py"

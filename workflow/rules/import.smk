# Input that is already a volume: its images are written into the store like fused volumes.


rule index_input:
    """Describe the images of a sample that is already a volume, from their headers."""
    input:
        images=of_sample(raw_data.sample_images),
    output:
        index=result("input.json"),
    log:
        log_of("index_input"),
    benchmark:
        benchmark_of("index_input")
    wildcard_constraints:
        sample=one_of(RUN.imported),
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
        images=of_sample(raw_data.raw_addresses),
        raw_state=of_sample(raw_data.sample_state),
        spacing_um=setting("input.spacing_um"),
        orientation=setting("input.orientation"),
    script:
        "../scripts/index_input.py"


rule init_import:
    """Check an image, plan the volume of its channel and write the metadata.

    It reads the header itself rather than the sample's description, so that a channel that is
    added, removed or changed makes no other one again, nor what was registered with it.
    """
    input:
        image=of_channel(raw_data.channel_files),
    output:
        plan=result("fused/{channel}/plan.json"),
    log:
        log_of("init_import/{channel}"),
    benchmark:
        benchmark_of("init_import/{channel}")
    wildcard_constraints:
        sample=one_of(RUN.imported),
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
        address=of_channel(raw_data.image_address),
        image=of_channel(raw_data.image_of_channel),
        raw_state=of_channel(raw_data.channel_state),
        spacing_um=setting("input.spacing_um"),
        orientation=setting("input.orientation"),
        volume=setting("volume"),
    script:
        "../scripts/init_import.py"


rule import_volume:
    """Import one batch of blocks of a channel: read the image, write the finest levels."""
    input:
        image=of_channel(raw_data.channel_files),
        plan=result("fused/{channel}/plan.json"),
    output:
        batch=result("fused/{channel}/batches/{batch}.json"),
    log:
        log_of("import_volume/{channel}_{batch}"),
    benchmark:
        benchmark_of("import_volume/{channel}_{batch}")
    wildcard_constraints:
        sample=one_of(RUN.imported),
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
        image=of_channel(raw_data.image_of_channel),
        batches=batches(volumes_cost.block_batches),
        raw_state=of_channel(raw_data.channel_state),
    script:
        "../scripts/import_volume.py"

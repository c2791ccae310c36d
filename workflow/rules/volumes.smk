# Volumes: metadata once, blocks that own whole shards, the small top of the pyramid, a check.
# init_* rules differ by kind of volume; finish_pyramid and finalize_volume serve all of them.


rule init_volume:
    """Plan the fused volume of a channel and write its metadata."""
    input:
        acquisition=result("acquisition.json"),
        placement=result("stitching/placement.json"),
    output:
        plan=result("fused/{channel}/plan.json"),
    log:
        log_of("init_volume/{channel}"),
    benchmark:
        benchmark_of("init_volume/{channel}")
    wildcard_constraints:
        sample=one_of(RUN.tiled),
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("init_volume")
    resources:
        mem_mb=memory("init_volume"),
        runtime=runtime("init_volume"),
    params:
        code=code("init_volume"),
        record=record_of("init_volume/{channel}"),
        store=setting("store"),
        fusion=of_sample(inputs.fusion_settings),
        volume=setting("volume"),
    script:
        "../scripts/init_volume.py"


rule fuse_blocks:
    """Fuse one batch of rows of blocks: read tiles, blend, write the finest levels."""
    input:
        unpack(of_channel(inputs.side_tiles)),
        acquisition=result("acquisition.json"),
        placement=result("stitching/placement.json"),
        plan=result("fused/{channel}/plan.json"),
    output:
        batch=result("fused/{channel}/batches/{batch}.json"),
    log:
        log_of("fuse_blocks/{channel}_{batch}"),
    benchmark:
        benchmark_of("fuse_blocks/{channel}_{batch}")
    wildcard_constraints:
        sample=one_of(RUN.tiled),
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("fuse_blocks")
    resources:
        mem_mb=memory("fuse_blocks"),
        runtime=runtime("fuse_blocks"),
    params:
        code=code("fuse_blocks"),
        record=record_of("fuse_blocks/{channel}_{batch}"),
        store=setting("store"),
        fusion=of_sample(inputs.fusion_settings),
        sides=of_channel(Run.sides_of),
        blend=setting("fusion.sides.blend"),
        batches=batches(volumes_cost.block_batches),
        row_blocks=batches(volumes_cost.row_blocks),
        raw_state=of_channel(raw_data.channel_raw_state),
    script:
        "../scripts/fuse_blocks.py"


rule finish_pyramid:
    """Make the coarse levels of a volume from the levels that its blocks wrote."""
    input:
        plan=result("{volume}/plan.json"),
        batches=of_volume(inputs.blocks_of_volume),
    output:
        levels=result("{volume}/levels.json"),
    log:
        log_of("finish_pyramid/{volume}"),
    benchmark:
        benchmark_of("finish_pyramid/{volume}")
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("finish_pyramid")
    resources:
        mem_mb=memory("finish_pyramid"),
        runtime=runtime("finish_pyramid"),
    params:
        code=code("finish_pyramid"),
        record=record_of("finish_pyramid/{volume}"),
        store=setting("store"),
    script:
        "../scripts/finish_pyramid.py"


rule finalize_volume:
    """Check that every record and object of a volume is there, and set its display range."""
    input:
        plan=result("{volume}/plan.json"),
        batches=of_volume(inputs.blocks_of_volume),
        levels=result("{volume}/levels.json"),
    output:
        complete=result("{volume}/complete.json"),
    log:
        log_of("finalize_volume/{volume}"),
    benchmark:
        benchmark_of("finalize_volume/{volume}")
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("finalize_volume")
    resources:
        mem_mb=memory("finalize_volume"),
        runtime=runtime("finalize_volume"),
    params:
        code=code("finalize_volume"),
        record=record_of("finalize_volume/{volume}"),
        store=setting("store"),
    script:
        "../scripts/finalize_volume.py"


rule verify_volume:
    """Read all levels and the metadata of a volume back and compare them with what was written."""
    input:
        plan=result("{volume}/plan.json"),
        complete=result("{volume}/complete.json"),
    output:
        verified=result("{volume}/verified.json"),
    log:
        log_of("verify_volume/{volume}"),
    benchmark:
        benchmark_of("verify_volume/{volume}")
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("verify_volume")
    resources:
        mem_mb=memory("verify_volume"),
        runtime=runtime("verify_volume"),
    params:
        code=code("verify_volume"),
        record=record_of("verify_volume/{volume}"),
        store=setting("store"),
        writer=of_volume(inputs.writer_of_volume),
    script:
        "../scripts/verify_volume.py"


rule verify_objects:
    """Read the meshes, skeletons or points of a layer back and compare them with what was written."""
    input:
        lists=of_objects(inputs.object_lists),
    output:
        verified=result("{objects}/objects_verified.json"),
    log:
        log_of("verify_objects/{objects}"),
    benchmark:
        benchmark_of("verify_objects/{objects}")
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("verify_objects")
    resources:
        mem_mb=memory("verify_objects"),
        runtime=runtime("verify_objects"),
    params:
        code=code("verify_objects"),
        record=record_of("verify_objects/{objects}"),
        store=setting("store"),
        writers=of_objects(inputs.object_writers),
    script:
        "../scripts/verify_objects.py"

# Data carried through the transform: labels into the sample, channels into the atlas, points.


rule init_labels:
    """Plan the label volume of the sample and write its metadata and region names."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        plan=of_sample(inputs.registration_volume, "plan.json"),
    output:
        plan=result("labels/{atlas}/plan.json"),
    log:
        log_of("init_labels/{atlas}"),
    benchmark:
        benchmark_of("init_labels/{atlas}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("init_labels")
    resources:
        mem_mb=memory("init_labels"),
        runtime=runtime("init_labels"),
    params:
        code=code("init_labels"),
        record=record_of("init_labels/{atlas}"),
        store=setting("store"),
        volume=setting("volume"),
        resolution_um=setting("labels.resolution_um"),
    script:
        "../scripts/init_labels.py"


rule transform_labels:
    """Carry the atlas annotation into the sample, block by block, without loss."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        unpack(of_registration(inputs.transform_files)),
        plan=result("labels/{atlas}/plan.json"),
    output:
        batch=result("labels/{atlas}/batches/{batch}.json"),
    log:
        log_of("transform_labels/{atlas}_{batch}"),
    benchmark:
        benchmark_of("transform_labels/{atlas}_{batch}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("transform_labels")
    resources:
        mem_mb=memory("transform_labels"),
        runtime=runtime("transform_labels"),
    params:
        code=code("transform_labels"),
        record=record_of("transform_labels/{atlas}_{batch}"),
        batches=batches(regions_cost.label_batches),
        store=setting("store"),
        interpolation=setting("labels.interpolation"),
    script:
        "../scripts/transform_labels.py"


rule mesh_labels:
    """Make a surface of every region in the sample."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        plan=result("labels/{atlas}/plan.json"),
        complete=result("labels/{atlas}/complete.json"),
    output:
        meshes=result("labels/{atlas}/meshes.json"),
    log:
        log_of("mesh_labels/{atlas}"),
    benchmark:
        benchmark_of("mesh_labels/{atlas}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("mesh_labels")
    resources:
        mem_mb=memory("mesh_labels"),
        runtime=runtime("mesh_labels"),
    params:
        code=code("mesh_labels"),
        record=record_of("mesh_labels/{atlas}"),
        store=setting("store"),
        resolution_um=setting("labels.mesh_resolution_um"),
    script:
        "../scripts/mesh_labels.py"


rule init_atlas_space:
    """Plan the volume of a channel in the atlas and write its metadata."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        source=of_channel(inputs.measured_file, "plan.json"),
    output:
        plan=result("atlas_space/{atlas}/{channel}/plan.json"),
    log:
        log_of("init_atlas_space/{atlas}_{channel}"),
    benchmark:
        benchmark_of("init_atlas_space/{atlas}_{channel}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("init_atlas_space")
    resources:
        mem_mb=memory("init_atlas_space"),
        runtime=runtime("init_atlas_space"),
    params:
        code=code("init_atlas_space"),
        record=record_of("init_atlas_space/{atlas}_{channel}"),
        store=setting("store"),
        volume=setting("volume"),
        resolution_um=setting("atlas_space.resolution_um"),
    script:
        "../scripts/init_atlas_space.py"


rule transform_volume:
    """Carry a channel into the atlas, block by block, by linear interpolation."""
    input:
        unpack(of_registration(inputs.transform_files)),
        source=of_channel(inputs.measured_file, "plan.json"),
        complete=of_channel(inputs.measured_file, "complete.json"),
        plan=result("atlas_space/{atlas}/{channel}/plan.json"),
    output:
        batch=result("atlas_space/{atlas}/{channel}/batches/{batch}.json"),
    log:
        log_of("transform_volume/{atlas}_{channel}_{batch}"),
    benchmark:
        benchmark_of("transform_volume/{atlas}_{channel}_{batch}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("transform_volume")
    resources:
        mem_mb=memory("transform_volume"),
        runtime=runtime("transform_volume"),
    params:
        code=code("transform_volume"),
        record=record_of("transform_volume/{atlas}_{channel}_{batch}"),
        store=setting("store"),
        source=of_sample(Run.measured_volume),
    script:
        "../scripts/transform_volume.py"


rule transform_points:
    """Carry a list of points through the transform and name the region of each."""
    input:
        unpack(of_points(inputs.atlas_of_points)),
        unpack(of_points(inputs.transform_of_points)),
        plan=of_sample(inputs.registration_volume, "plan.json"),
        points=of_points(own_files.point_file),
    output:
        table=result("points/{points}.csv"),
        annotations=result("points/{points}.json"),
        summary=result("points/{points}/summary.json"),
    log:
        log_of("transform_points/{points}"),
    benchmark:
        benchmark_of("transform_points/{points}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("transform_points")
    resources:
        mem_mb=memory("transform_points"),
        runtime=runtime("transform_points"),
    params:
        code=code("transform_points"),
        record=record_of("transform_points/{points}"),
        settings=of_points(own_files.point_settings),
    script:
        "../scripts/transform_points.py"


rule count_points:
    """Count a list of points in the regions and hemispheres of its atlas."""
    input:
        unpack(of_points(inputs.atlas_of_points)),
        unpack(of_points(inputs.errors_of_points)),
        points=result("points/{points}.csv"),
        regions=of_points(inputs.regions_of_points),
    output:
        table=result("points/{points}.tsv"),
    log:
        log_of("count_points/{points}"),
    benchmark:
        benchmark_of("count_points/{points}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("count_points")
    resources:
        mem_mb=memory("count_points"),
        runtime=runtime("count_points"),
    params:
        code=code("count_points"),
        record=record_of("count_points/{points}"),
    script:
        "../scripts/count_points.py"

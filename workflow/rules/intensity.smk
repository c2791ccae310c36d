# Intensity of the tiles: flat-field per channel, and tiles corrected by it.


rule sum_tiles:
    """Gather statistics of one batch of tiles of one channel, at the stage's positions."""
    input:
        acquisition=result("acquisition.json"),
    output:
        sums=result("intensity/{channel}/nominal/sums/{batch}.npz"),
    log:
        log_of("sum_tiles/{channel}_{batch}"),
    benchmark:
        benchmark_of("sum_tiles/{channel}_{batch}")
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("sum_tiles")
    resources:
        mem_mb=memory("sum_tiles"),
        runtime=runtime("sum_tiles"),
    params:
        code=code("sum_tiles"),
        record=record_of("sum_tiles/{channel}_{batch}"),
        settings=of_sample(inputs.sum_settings),
        batches=batches(intensity_cost.sum_batches),
        raw_state=of_channel(raw_data.raw_state),
    script:
        "../scripts/sum_tiles.py"


rule estimate_flatfield:
    """Estimate the flat-field of one channel, well enough to measure displacements with it."""
    input:
        acquisition=result("acquisition.json"),
        sums=batch_files(
            "intensity/{channel}/nominal/sums/{batch}.npz", intensity_cost.sum_batches
        ),
        image=of_sample(own_files.own_profile),
    output:
        profile=result("intensity/{channel}/nominal/flatfield.tif"),
        info=result("intensity/{channel}/nominal/flatfield.json"),
    log:
        log_of("estimate_flatfield/{channel}"),
    benchmark:
        benchmark_of("estimate_flatfield/{channel}")
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("estimate_flatfield")
    resources:
        mem_mb=memory("estimate_flatfield"),
        runtime=runtime("estimate_flatfield"),
    params:
        code=code("estimate_flatfield"),
        record=record_of("estimate_flatfield/{channel}"),
        settings=setting("intensity.flatfield"),
    script:
        "../scripts/estimate_flatfield.py"


use rule sum_tiles as sum_placed_tiles with:
    input:
        unpack(of_channel(inputs.chained_shifts)),
        acquisition=result("acquisition.json"),
        placement=result("stitching/placement.json"),
    output:
        sums=result("intensity/{channel}/sums/{batch}.npz"),
    log:
        log_of("sum_placed_tiles/{channel}_{batch}"),
    benchmark:
        benchmark_of("sum_placed_tiles/{channel}_{batch}")
    threads: threads_of("sum_placed_tiles")
    resources:
        mem_mb=memory("sum_placed_tiles"),
        runtime=runtime("sum_placed_tiles"),
    params:
        record=record_of("sum_placed_tiles/{channel}_{batch}"),


use rule estimate_flatfield as refine_flatfield with:
    input:
        acquisition=result("acquisition.json"),
        sums=batch_files(
            "intensity/{channel}/sums/{batch}.npz", intensity_cost.sum_batches
        ),
        image=of_sample(own_files.own_profile),
    output:
        profile=result("intensity/{channel}/flatfield.tif"),
        info=result("intensity/{channel}/flatfield.json"),
    log:
        log_of("refine_flatfield/{channel}"),
    benchmark:
        benchmark_of("refine_flatfield/{channel}")
    threads: threads_of("refine_flatfield")
    resources:
        mem_mb=memory("refine_flatfield"),
        runtime=runtime("refine_flatfield"),
    params:
        record=record_of("refine_flatfield/{channel}"),


rule sum_lines:
    """Gather the means of lines of one batch of tiles in their overlaps.

    With intensity.destriping: auto it ends at once if the flat-field's statistics show no stripes.
    """
    input:
        unpack(of_channel(inputs.chained_shifts)),
        acquisition=result("acquisition.json"),
        placement=result("stitching/placement.json"),
        profile=result("intensity/{channel}/flatfield.tif"),
        info=result("intensity/{channel}/flatfield.json"),
    output:
        lines=temp(result("intensity/{channel}/lines/{batch}.npz")),
    log:
        log_of("sum_lines/{channel}_{batch}"),
    benchmark:
        benchmark_of("sum_lines/{channel}_{batch}")
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("sum_lines")
    resources:
        mem_mb=memory("sum_lines"),
        runtime=runtime("sum_lines"),
    params:
        code=code("sum_lines"),
        record=record_of("sum_lines/{channel}_{batch}"),
        store=setting("store"),
        lines=setting("intensity.destriping"),
        batches=batches(intensity_cost.line_batches),
        raw_state=of_channel(raw_data.raw_state),
    script:
        "../scripts/sum_lines.py"


rule estimate_stripes:
    """Estimate the gain of every line of every plane from the overlaps of the tiles (destriping).

    The gains and their record are in the store; the output describes them.
    """
    input:
        unpack(of_channel(inputs.chained_shifts)),
        acquisition=result("acquisition.json"),
        placement=result("stitching/placement.json"),
        info=result("intensity/{channel}/flatfield.json"),
        lines=batch_files(
            "intensity/{channel}/lines/{batch}.npz", intensity_cost.line_batches
        ),
    output:
        stripes=result("intensity/{channel}/stripes.json"),
    log:
        log_of("estimate_stripes/{channel}"),
    benchmark:
        benchmark_of("estimate_stripes/{channel}")
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("estimate_stripes")
    resources:
        mem_mb=memory("estimate_stripes"),
        runtime=runtime("estimate_stripes"),
    params:
        code=code("estimate_stripes"),
        record=record_of("estimate_stripes/{channel}"),
        store=setting("store"),
        lines=setting("intensity.destriping"),
    script:
        "../scripts/estimate_stripes.py"


rule correct_tiles:
    """Write one batch of corrected tiles into the store (not with corrected_tiles: stream).

    Each array is in the store beside its record; the output lists them.
    """
    input:
        unpack(of_channel(inputs.shading_files)),
        acquisition=result("acquisition.json"),
    output:
        batch=possibly_temporary(result("corrected/{channel}/batches/{batch}.json")),
    log:
        log_of("correct_tiles/{channel}_{batch}"),
    benchmark:
        benchmark_of("correct_tiles/{channel}_{batch}")
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("correct_tiles")
    resources:
        mem_mb=memory("correct_tiles"),
        runtime=runtime("correct_tiles"),
    params:
        code=code("correct_tiles"),
        record=record_of("correct_tiles/{channel}_{batch}"),
        store=setting("store"),
        batches=batches(intensity_cost.tile_batches),
        raw_state=of_channel(raw_data.raw_state),
    script:
        "../scripts/correct_tiles.py"


rule drop_corrected_tiles:
    """Delete the corrected tiles of a channel once its volume is complete (temporary only)."""
    input:
        complete=of_channel(inputs.channel_of_side),
        placement=result("stitching/placement.json"),
        seams=result("views/seams.png"),
    output:
        dropped=result("corrected/{channel}/dropped.json"),
    log:
        log_of("drop_corrected_tiles/{channel}"),
    benchmark:
        benchmark_of("drop_corrected_tiles/{channel}")
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("drop_corrected_tiles")
    resources:
        mem_mb=memory("drop_corrected_tiles"),
        runtime=runtime("drop_corrected_tiles"),
    params:
        code=code("drop_corrected_tiles"),
        record=record_of("drop_corrected_tiles/{channel}"),
        store=setting("store"),
    script:
        "../scripts/drop_corrected_tiles.py"

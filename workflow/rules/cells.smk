# Cells: found in the fused volume box by box, gathered, and counted in the regions of an atlas.


rule find_cells:
    """Find bright blobs of the size of a cell in one batch of boxes."""
    input:
        plan=of_cells(inputs.cell_source, "plan.json"),
        complete=of_cells(inputs.cell_source, "complete.json"),
    output:
        blobs=result("cells/{cells}/batches/{batch}.npy"),
    log:
        log_of("find_cells/{cells}_{batch}"),
    benchmark:
        benchmark_of("find_cells/{cells}_{batch}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("find_cells")
    resources:
        mem_mb=memory("find_cells"),
        runtime=runtime("find_cells"),
    params:
        code=code("find_cells"),
        record=record_of("find_cells/{cells}_{batch}"),
        store=setting("store"),
        settings=of_cells(inputs.cell_settings),
        batches=batches(signal_cost.cell_batches),
    script:
        "../scripts/find_cells.py"


rule gather_cells:
    """Join the cells of all batches, filtered if there are marks: a table, a summary and a layer."""
    input:
        marks=of_cells(own_files.cell_marks),
        plan=of_cells(inputs.cell_source, "plan.json"),
        blobs=batch_files("cells/{cells}/batches/{batch}.npy", signal_cost.cell_batches),
    output:
        table=result("cells/{cells}.csv"),
        cells=result("cells/{cells}.npy"),
        summary=result("cells/{cells}.json"),
    log:
        log_of("gather_cells/{cells}"),
    benchmark:
        benchmark_of("gather_cells/{cells}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("gather_cells")
    resources:
        mem_mb=memory("gather_cells"),
        runtime=runtime("gather_cells"),
    params:
        code=code("gather_cells"),
        record=record_of("gather_cells/{cells}"),
        store=setting("store"),
        settings=of_cells(inputs.cell_settings),
    script:
        "../scripts/gather_cells.py"


rule count_cells:
    """Carry cells into an atlas: their regions, counts and densities, and a map."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        unpack(of_registration(inputs.transform_files)),
        unpack(of_registration(inputs.error_files)),
        cells=result("cells/{cells}.npy"),
        regions=result("regions/{atlas}.tsv"),
    output:
        table=result("cells/{cells}/{atlas}/cells.csv"),
        regions=result("cells/{cells}/{atlas}/regions.tsv"),
        density=result("cells/{cells}/{atlas}/density.nrrd"),
    log:
        log_of("count_cells/{cells}_{atlas}"),
    benchmark:
        benchmark_of("count_cells/{cells}_{atlas}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("count_cells")
    resources:
        mem_mb=memory("count_cells"),
        runtime=runtime("count_cells"),
    params:
        code=code("count_cells"),
        record=record_of("count_cells/{cells}_{atlas}"),
        settings=of_cells(inputs.heat_map_settings),
    script:
        "../scripts/count_cells.py"

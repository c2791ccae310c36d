# Derived volumes: made from other volumes by the tools of the section derived:, block by block.
# A tool that has to know the whole source first measures it in batches, and gathers what they found.
# finish_pyramid and finalize_volume (volumes.smk) end what makes a volume.


rule init_derived:
    """Plan what a tool makes, and write the metadata of its volume."""
    input:
        source=of_derived(inputs.derived_source),
        own=of_derived(own_files.derived_own_files),
    output:
        plan=result("derived/{derived}/plan.json"),
    log:
        log_of("init_derived/{derived}"),
    benchmark:
        benchmark_of("init_derived/{derived}")
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("init_derived")
    resources:
        mem_mb=memory("init_derived"),
        runtime=runtime("init_derived"),
    params:
        code=code("init_derived"),
        record=record_of("init_derived/{derived}"),
        store=setting("store"),
        volume=setting("volume"),
        entry=of_derived(inputs.derived_entry),
        address=of_derived(inputs.derived_address),
        source_state=of_derived(inputs.derived_state),
    script:
        "../scripts/init_derived.py"


rule measure_derived:
    """Look at one batch of blocks of the source, for a tool that has to know all of it first."""
    input:
        unpack(of_derived(inputs.complete_source)),
        own=of_derived(own_files.derived_own_files),
        plan=result("derived/{derived}/plan.json"),
    output:
        part=result("derived/{derived}/measured/{batch}.npz"),
    log:
        log_of("measure_derived/{derived}_{batch}"),
    benchmark:
        benchmark_of("measure_derived/{derived}_{batch}")
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("measure_derived")
    resources:
        mem_mb=memory("measure_derived"),
        runtime=runtime("measure_derived"),
    params:
        code=code("measure_derived"),
        record=record_of("measure_derived/{derived}_{batch}"),
        store=setting("store"),
        entry=of_derived(inputs.derived_entry),
        address=of_derived(inputs.derived_address),
        source_state=of_derived(inputs.derived_state),
        batches=of_derived(inputs.derived_batches),
    script:
        "../scripts/measure_derived.py"


rule gather_derived:
    """Gather what all batches found in the source."""
    input:
        plan=result("derived/{derived}/plan.json"),
        parts=of_derived(inputs.measured_parts),
        own=of_derived(own_files.derived_own_files),
    output:
        measured=result("derived/{derived}/measured.npz"),
    log:
        log_of("gather_derived/{derived}"),
    benchmark:
        benchmark_of("gather_derived/{derived}")
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("gather_derived")
    resources:
        mem_mb=memory("gather_derived"),
        runtime=runtime("gather_derived"),
    params:
        code=code("gather_derived"),
        record=record_of("gather_derived/{derived}"),
        store=setting("store"),
        entry=of_derived(inputs.derived_entry),
        address=of_derived(inputs.derived_address),
    script:
        "../scripts/gather_derived.py"


rule derive_blocks:
    """Make one batch of blocks of a derived volume: read the source, write the finest levels."""
    input:
        unpack(of_derived(inputs.complete_source)),
        unpack(of_derived(inputs.measured_source)),
        own=of_derived(own_files.derived_own_files),
        plan=result("derived/{derived}/plan.json"),
    output:
        batch=result("derived/{derived}/batches/{batch}.json"),
    log:
        log_of("derive_blocks/{derived}_{batch}"),
    benchmark:
        benchmark_of("derive_blocks/{derived}_{batch}")
    wildcard_constraints:
        derived=one_of(derived_volumes.names(RUN, volumes=True)),
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("derive_blocks")
    resources:
        mem_mb=memory("derive_blocks"),
        runtime=runtime("derive_blocks"),
    params:
        code=code("derive_blocks"),
        record=record_of("derive_blocks/{derived}_{batch}"),
        store=setting("store"),
        entry=of_derived(inputs.derived_entry),
        address=of_derived(inputs.derived_address),
        source_state=of_derived(inputs.derived_state),
        batches=of_derived(inputs.derived_batches),
    script:
        "../scripts/derive_blocks.py"


rule count_derived:
    """Write the tables of the labels that were counted."""
    input:
        plan=result("derived/{derived}/plan.json"),
        measured=result("derived/{derived}/measured.npz"),
    output:
        counts=result("derived/{derived}/counts.tsv"),
        regions=result("derived/{derived}/counts_by_region.tsv"),
    log:
        log_of("count_derived/{derived}"),
    benchmark:
        benchmark_of("count_derived/{derived}")
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("count_derived")
    resources:
        mem_mb=memory("count_derived"),
        runtime=runtime("count_derived"),
    params:
        code=code("count_derived"),
        record=record_of("count_derived/{derived}"),
        store=setting("store"),
        entry=of_derived(inputs.derived_entry),
        address=of_derived(inputs.derived_address),
    script:
        "../scripts/count_derived.py"


rule write_objects:
    """Join and write the meshes or skeletons of one batch of labels."""
    input:
        plan=result("derived/{derived}/plan.json"),
        measured=result("derived/{derived}/measured.npz"),
    output:
        batch=result("derived/{derived}/objects/{batch}.json"),
    log:
        log_of("write_objects/{derived}_{batch}"),
    benchmark:
        benchmark_of("write_objects/{derived}_{batch}")
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("write_objects")
    resources:
        mem_mb=memory("write_objects"),
        runtime=runtime("write_objects"),
    params:
        code=code("write_objects"),
        record=record_of("write_objects/{derived}_{batch}"),
        store=setting("store"),
        entry=of_derived(inputs.derived_entry),
        address=of_derived(inputs.derived_address),
        batches=of_derived(inputs.derived_batches),
    script:
        "../scripts/write_objects.py"


rule finish_objects:
    """Write the metadata of meshes or skeletons, check that all are there, and list them."""
    input:
        plan=result("derived/{derived}/plan.json"),
        batches=of_derived(inputs.object_batches),
    output:
        table=result("derived/{derived}/objects.tsv"),
        objects=result("derived/{derived}/objects.json"),
    log:
        log_of("finish_objects/{derived}"),
    benchmark:
        benchmark_of("finish_objects/{derived}")
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("finish_objects")
    resources:
        mem_mb=memory("finish_objects"),
        runtime=runtime("finish_objects"),
    params:
        code=code("finish_objects"),
        record=record_of("finish_objects/{derived}"),
        store=setting("store"),
        entry=of_derived(inputs.derived_entry),
        address=of_derived(inputs.derived_address),
    script:
        "../scripts/finish_objects.py"

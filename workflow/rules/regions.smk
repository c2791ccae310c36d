# Numbers: per region and hemisphere, and the registration error from fiducials and labels.


rule sum_regions:
    """Add up voxels and intensities of every region and hemisphere in one batch of blocks."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        unpack(of_registration(inputs.transform_files)),
        labels=result("labels/{atlas}/plan.json"),
        complete=result("labels/{atlas}/complete.json"),
        channels=of_sample(inputs.every_channel, "plan.json"),
        channels_complete=of_sample(inputs.every_channel, "complete.json"),
    output:
        sums=result("regions/{atlas}/sums/{batch}.json"),
    log:
        log_of("sum_regions/{atlas}_{batch}"),
    benchmark:
        benchmark_of("sum_regions/{atlas}_{batch}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("sum_regions")
    resources:
        mem_mb=memory("sum_regions"),
        runtime=runtime("sum_regions"),
    params:
        code=code("sum_regions"),
        record=record_of("sum_regions/{atlas}_{batch}"),
        store=setting("store"),
        source=of_sample(Run.measured_volume),
        channels=of_sample(Run.channels_of),
        batches=batches(regions_cost.label_batches),
    script:
        "../scripts/sum_regions.py"


rule measure_regions:
    """Make the table of volume and intensity per region, with hierarchy roll-up."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        unpack(of_registration(inputs.transform_files)),
        unpack(of_registration(inputs.error_files)),
        labels=result("labels/{atlas}/plan.json"),
        sums=batch_files(
            "regions/{atlas}/sums/{batch}.json", regions_cost.label_batches
        ),
    output:
        table=result("regions/{atlas}.tsv"),
    log:
        log_of("measure_regions/{atlas}"),
    benchmark:
        benchmark_of("measure_regions/{atlas}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("measure_regions")
    resources:
        mem_mb=memory("measure_regions"),
        runtime=runtime("measure_regions"),
    params:
        code=code("measure_regions"),
        record=record_of("measure_regions/{atlas}"),
    script:
        "../scripts/measure_regions.py"


rule sum_signal:
    """Add up signal, its intensities and lengths in every region and hemisphere, in a batch of blocks."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        unpack(of_registration(inputs.transform_files)),
        unpack(of_derived(inputs.signal_source)),
        labels=result("labels/{atlas}/plan.json"),
        complete=result("labels/{atlas}/complete.json"),
    output:
        sums=result("derived/{derived}/regions/{atlas}/sums/{batch}.json"),
    log:
        log_of("sum_signal/{derived}_{atlas}_{batch}"),
    benchmark:
        benchmark_of("sum_signal/{derived}_{atlas}_{batch}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("sum_signal")
    resources:
        mem_mb=memory("sum_signal"),
        runtime=runtime("sum_signal"),
    params:
        code=code("sum_signal"),
        record=record_of("sum_signal/{derived}_{atlas}_{batch}"),
        store=setting("store"),
        channel=of_derived(inputs.signal_channel),
        thickest_um=of_derived(inputs.thickest_um),
        batches=batches(regions_cost.label_batches),
    script:
        "../scripts/sum_signal.py"


rule measure_signal:
    """Make the table of signal per region: share of the volume, intensity, roll-up."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        regions=result("regions/{atlas}.tsv"),
        sums=batch_files(
            "derived/{derived}/regions/{atlas}/sums/{batch}.json",
            regions_cost.label_batches,
        ),
    output:
        table=result("derived/{derived}/regions/{atlas}.tsv"),
    log:
        log_of("measure_signal/{derived}_{atlas}"),
    benchmark:
        benchmark_of("measure_signal/{derived}_{atlas}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("measure_signal")
    resources:
        mem_mb=memory("measure_signal"),
        runtime=runtime("measure_signal"),
    params:
        code=code("measure_signal"),
        record=record_of("measure_signal/{derived}_{atlas}"),
    script:
        "../scripts/measure_signal.py"


rule score_registration:
    """Compare fiducials of the sample with those of the atlas, by name."""
    input:
        unpack(of_registration(inputs.transform_files)),
        plan=of_sample(inputs.registration_volume, "plan.json"),
        frame=atlas_file("atlas.json"),
        sample_points=of_registration(own_files.user_points, "fiducials", "sample"),
        atlas_points=of_registration(own_files.user_points, "fiducials", "atlas"),
    output:
        table=result("accuracy/{atlas}.tsv"),
        summary=result("accuracy/{atlas}.json"),
    log:
        log_of("score_registration/{atlas}"),
    benchmark:
        benchmark_of("score_registration/{atlas}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("score_registration")
    resources:
        mem_mb=memory("score_registration"),
        runtime=runtime("score_registration"),
    params:
        code=code("score_registration"),
        record=record_of("score_registration/{atlas}"),
    script:
        "../scripts/score_registration.py"


rule score_labels:
    """Compare labels of the sample with the registered atlas: Dice coefficient of every region."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        unpack(of_registration(inputs.transform_files)),
        plan=of_sample(inputs.registration_volume, "plan.json"),
        labels=of_registration(own_files.user_labels_file),
    output:
        table=result("overlap/{atlas}.tsv"),
        summary=result("overlap/{atlas}.json"),
    log:
        log_of("score_labels/{atlas}"),
    benchmark:
        benchmark_of("score_labels/{atlas}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("score_labels")
    resources:
        mem_mb=memory("score_labels"),
        runtime=runtime("score_labels"),
    params:
        code=code("score_labels"),
        record=record_of("score_labels/{atlas}"),
        settings=of_registration(own_files.user_labels),
        state=of_registration(own_files.user_labels_state),
    script:
        "../scripts/score_labels.py"

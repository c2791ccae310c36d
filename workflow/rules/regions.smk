# Numbers: per region and hemisphere, and the registration's error where fiducials are given.


rule measure_regions:
    """Measure volume and intensity of every region and hemisphere, with hierarchy roll-up."""
    input:
        unpack(prepared_atlas),
        unpack(transform_files),
        labels=result("labels/{atlas}/plan.json"),
        complete=result("labels/{atlas}/complete.json"),
        channels=lambda wildcards: every_channel(wildcards, "plan.json"),
        channels_complete=lambda wildcards: every_channel(wildcards, "complete.json"),
    output:
        table=result("regions/{atlas}.tsv"),
    params:
        code=code("measure_regions"),
        store=setting("store"),
        source=measured_volume,
        channels=lambda wildcards: list(setting("input.channels")(wildcards)),
    log:
        log_of("measure_regions/{atlas}"),
    benchmark:
        benchmark_of("measure_regions/{atlas}")
    threads: threads_of("heavy")
    resources:
        mem_mb=memory(blocks),
        runtime=runtime(one_volume),
    conda:
        "../envs/regions.yaml"
    script:
        "../scripts/measure_regions.py"


rule score_registration:
    """Compare fiducials of the sample with those of the atlas, by name."""
    input:
        unpack(transform_files),
        sample=lambda wildcards: setting(f"fiducials.{wildcards.atlas}.sample")(wildcards),
        atlas=lambda wildcards: setting(f"fiducials.{wildcards.atlas}.atlas")(wildcards),
        initial=result("registration/{atlas}/initial_affine.txt"),
    output:
        table=result("accuracy/{atlas}.tsv"),
        summary=result("accuracy/{atlas}.json"),
    params:
        code=code("score_registration"),
    log:
        log_of("score_registration/{atlas}"),
    benchmark:
        benchmark_of("score_registration/{atlas}")
    threads: threads_of("light")
    resources:
        mem_mb=memory(small),
        runtime=runtime(nothing),
    conda:
        "../envs/regions.yaml"
    script:
        "../scripts/score_registration.py"

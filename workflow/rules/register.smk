# Registration: a first pose to look at, then EM-LDDMM.


rule preview_alignment:
    """Find the initial pose of the atlas in the sample and draw it: look before you wait."""
    input:
        unpack(prepared_atlas),
        plan=lambda wildcards: registration_volume(wildcards, "plan.json"),
        complete=lambda wildcards: registration_volume(wildcards, "complete.json"),
    output:
        affine=result("registration/{atlas}/initial_affine.txt"),
        pose=result("registration/{atlas}/pose.json"),
        preview=report(
            result("registration/{atlas}/preview.png"),
            caption="../report/preview.rst",
            category="Registration",
            labels={
                "sample": "{sample}",
                "atlas": "{atlas}",
                "figure": "initial pose",
            },
        ),
    log:
        log_of("preview_alignment/{atlas}"),
    benchmark:
        benchmark_of("preview_alignment/{atlas}")
    conda:
        "../envs/register.yaml"
    threads: threads_of("preview_alignment")
    resources:
        mem_mb=memory("preview_alignment"),
        runtime=runtime("preview_alignment"),
    params:
        code=code("preview_alignment"),
        record=record_of("preview_alignment/{atlas}"),
        store=setting("store"),
        source=registration_source,
        pose=setting("registration.pose"),
        threads=setting("registration.threads"),
        resolution_um=setting("registration.resolution_um"),
    script:
        "../scripts/preview_alignment.py"


rule register:
    """Register the atlas to the sample: affine, velocity, contrast, posteriors, transforms."""
    input:
        unpack(prepared_atlas),
        plan=lambda wildcards: registration_volume(wildcards, "plan.json"),
        complete=lambda wildcards: registration_volume(wildcards, "complete.json"),
        affine=result("registration/{atlas}/initial_affine.txt"),
        pose=result("registration/{atlas}/pose.json"),
    output:
        **registration_outputs(),
    log:
        log_of("register/{atlas}"),
    benchmark:
        benchmark_of("register/{atlas}")
    conda:
        "../envs/register.yaml"
    threads: threads_of("register")
    resources:
        mem_mb=memory("register"),
        runtime=runtime("register"),
    params:
        code=code("register"),
        record=record_of("register/{atlas}"),
        store=setting("store"),
        source=registration_source,
        settings=registration_settings,
        threads=setting("registration.threads"),
    script:
        "../scripts/register.py"

# Bias field of the fused volume (N4), and the volume corrected by it, in its own place.


rule estimate_bias_field:
    """Estimate the smooth bias field of a channel at low resolution."""
    input:
        plan=result("fused/{channel}/plan.json"),
        complete=result("fused/{channel}/complete.json"),
    output:
        field=result("bias/{channel}.nrrd"),
        info=result("bias/{channel}.json"),
    log:
        log_of("estimate_bias_field/{channel}"),
    benchmark:
        benchmark_of("estimate_bias_field/{channel}")
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("estimate_bias_field")
    resources:
        mem_mb=memory("estimate_bias_field"),
        runtime=runtime("estimate_bias_field"),
    params:
        code=code("estimate_bias_field"),
        record=record_of("estimate_bias_field/{channel}"),
        store=setting("store"),
        settings=of_sample(inputs.bias_settings),
    script:
        "../scripts/estimate_bias_field.py"


rule init_corrected_volume:
    """Write the metadata of the corrected volume of a channel."""
    input:
        plan=result("fused/{channel}/plan.json"),
        field=result("bias/{channel}.nrrd"),
    output:
        plan=result("corrected_volume/{channel}/plan.json"),
    log:
        log_of("init_corrected_volume/{channel}"),
    benchmark:
        benchmark_of("init_corrected_volume/{channel}")
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("init_corrected_volume")
    resources:
        mem_mb=memory("init_corrected_volume"),
        runtime=runtime("init_corrected_volume"),
    params:
        code=code("init_corrected_volume"),
        record=record_of("init_corrected_volume/{channel}"),
        store=setting("store"),
        volume_um=setting("intensity.bias.volume_um"),
    script:
        "../scripts/init_corrected_volume.py"


rule correct_volume:
    """Divide one batch of blocks of a channel by the bias field."""
    input:
        source=result("fused/{channel}/plan.json"),
        complete=result("fused/{channel}/complete.json"),
        plan=result("corrected_volume/{channel}/plan.json"),
        field=result("bias/{channel}.nrrd"),
    output:
        batch=result("corrected_volume/{channel}/batches/{batch}.json"),
    log:
        log_of("correct_volume/{channel}_{batch}"),
    benchmark:
        benchmark_of("correct_volume/{channel}_{batch}")
    conda:
        "../envs/volumes.yaml"
    threads: threads_of("correct_volume")
    resources:
        mem_mb=memory("correct_volume"),
        runtime=runtime("correct_volume"),
    params:
        code=code("correct_volume"),
        record=record_of("correct_volume/{channel}_{batch}"),
        store=setting("store"),
        batches=batches(intensity_cost.corrected_batches),
    script:
        "../scripts/correct_volume.py"

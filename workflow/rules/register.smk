# Registration: an initial pose to inspect, then EM-LDDMM.


rule pair_landmarks:
    """Read the landmarks of the sample and of the atlas and pair them by name."""
    input:
        plan=of_sample(inputs.registration_volume, "plan.json"),
        frame=atlas_file("atlas.json"),
        sample_points=of_registration(
            own_files.user_points, "registration.landmarks", "sample"
        ),
        atlas_points=of_registration(
            own_files.user_points, "registration.landmarks", "atlas"
        ),
    output:
        landmarks=result("registration/{atlas}/landmarks.json"),
    log:
        log_of("pair_landmarks/{atlas}"),
    benchmark:
        benchmark_of("pair_landmarks/{atlas}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("pair_landmarks")
    resources:
        mem_mb=memory("pair_landmarks"),
        runtime=runtime("pair_landmarks"),
    params:
        code=code("pair_landmarks"),
        record=record_of("pair_landmarks/{atlas}"),
        landmark_um=setting("registration.landmark_um"),
    script:
        "../scripts/pair_landmarks.py"


rule find_pose:
    """Find the initial pose of the atlas in the sample."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        unpack(of_registration(inputs.landmark_files)),
        plan=of_sample(inputs.registration_volume, "plan.json"),
        complete=of_sample(inputs.registration_volume, "complete.json"),
    output:
        affine=result("registration/{atlas}/initial_affine.txt"),
        pose=result("registration/{atlas}/pose.json"),
    log:
        log_of("find_pose/{atlas}"),
    benchmark:
        benchmark_of("find_pose/{atlas}")
    conda:
        "../envs/register.yaml"
    threads: threads_of("find_pose")
    resources:
        mem_mb=memory("find_pose"),
        runtime=runtime("find_pose"),
    params:
        code=code("find_pose"),
        record=record_of("find_pose/{atlas}"),
        store=setting("store"),
        source=of_sample(inputs.registration_source),
        pose=setting("registration.pose"),
        right_side_um=setting("input.right_side_um"),
        threads=setting("registration.threads"),
        resolution_um=setting("registration.resolution_um"),
    script:
        "../scripts/find_pose.py"


# a rule of its own, so that a change in how pictures are drawn registers nothing again
rule preview_alignment:
    """Draw the atlas on the sample by the initial pose, to be checked before the registration."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        plan=of_sample(inputs.registration_volume, "plan.json"),
        complete=of_sample(inputs.registration_volume, "complete.json"),
        affine=result("registration/{atlas}/initial_affine.txt"),
    output:
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
    # to be looked at while the registration runs
    priority: 10
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
        source=of_sample(inputs.registration_source),
        resolution_um=setting("registration.resolution_um"),
    script:
        "../scripts/preview_alignment.py"


rule register:
    """Register the atlas to the sample: affine, velocity, contrast, posteriors, transforms."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        unpack(of_registration(inputs.landmark_files)),
        plan=of_sample(inputs.registration_volume, "plan.json"),
        images=of_atlas(inputs.prepared_images),
        checksums=of_atlas(inputs.image_checksums),
        complete=of_sample(inputs.registration_volumes),
        affine=result("registration/{atlas}/initial_affine.txt"),
        pose=result("registration/{atlas}/pose.json"),
    output:
        **registration_files(),
    log:
        log_of("register/{atlas}"),
    benchmark:
        benchmark_of("register/{atlas}")
    wildcard_constraints:
        atlas=one_of(set(RUN.atlases) - set(RUN.composed_atlases)),
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
        sources=of_sample(inputs.registration_sources),
        images=of_atlas(inputs.image_names),
        settings=of_sample(inputs.registration_settings),
        threads=setting("registration.threads"),
        orientation_confirmed=setting("input.orientation_confirmed"),
    script:
        "../scripts/register.py"


rule compose_transforms:
    """Compose the registration to one atlas with the known transform to another one."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        unpack(of_atlas(inputs.through_files)),
        unpack(of_registration(inputs.base_files)),
        known=of_atlas(inputs.known_transform),
        own_template=of_atlas(inputs.template_source),
        base_template=of_atlas(inputs.base_template),
    output:
        **composed_files(),
    log:
        log_of("compose_transforms/{atlas}"),
    benchmark:
        benchmark_of("compose_transforms/{atlas}")
    wildcard_constraints:
        atlas=one_of(RUN.composed_atlases),
    conda:
        "../envs/register.yaml"
    threads: threads_of("compose_transforms")
    resources:
        mem_mb=memory("compose_transforms"),
        runtime=runtime("compose_transforms"),
    params:
        code=code("compose_transforms"),
        record=record_of("compose_transforms/{atlas}"),
        settings=of_atlas(inputs.known_settings),
        state=of_atlas(inputs.known_state),
    script:
        "../scripts/compose_transforms.py"


rule estimate_errors:
    """Estimate how far borders and volumes of a registration may be off."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        unpack(of_registration(inputs.landmark_files)),
        images=of_atlas(inputs.prepared_images),
        checksums=of_atlas(inputs.image_checksums),
        complete=of_sample(inputs.registration_volumes),
        initial=result("registration/{atlas}/initial_affine.txt"),
        pose=result("registration/{atlas}/pose.json"),
        state=result("registration/{atlas}/state.npz"),
        summary=result("registration/{atlas}/summary.json"),
    output:
        **error_files(),
    log:
        log_of("estimate_errors/{atlas}"),
    benchmark:
        benchmark_of("estimate_errors/{atlas}")
    conda:
        "../envs/register.yaml"
    threads: threads_of("estimate_errors")
    resources:
        mem_mb=memory("estimate_errors"),
        runtime=runtime("estimate_errors"),
    params:
        code=code("estimate_errors"),
        record=record_of("estimate_errors/{atlas}"),
        store=setting("store"),
        sources=of_sample(inputs.registration_sources),
        images=of_atlas(inputs.image_names),
        settings=of_sample(inputs.registration_settings),
        threads=setting("registration.threads"),
        formats=setting("volume.formats"),
    script:
        "../scripts/estimate_errors.py"


rule export_transform:
    """Write the transform for ITK, ANTs and other programs, in both directions."""
    input:
        unpack(of_registration(inputs.transform_files)),
    output:
        composite_to_atlas=result(
            "registration/{atlas}/itk/sample_to_atlas_composite.tfm"
        ),
        composite_to_sample=result(
            "registration/{atlas}/itk/atlas_to_sample_composite.tfm"
        ),
        field_to_atlas=result(
            "registration/{atlas}/itk/sample_to_atlas_displacement.nii.gz"
        ),
        field_to_sample=result(
            "registration/{atlas}/itk/atlas_to_sample_displacement.nii.gz"
        ),
    log:
        log_of("export_transform/{atlas}"),
    benchmark:
        benchmark_of("export_transform/{atlas}")
    conda:
        "../envs/regions.yaml"
    threads: threads_of("export_transform")
    resources:
        mem_mb=memory("export_transform"),
        runtime=runtime("export_transform"),
    params:
        code=code("export_transform"),
        record=record_of("export_transform/{atlas}"),
    script:
        "../scripts/export_transform.py"

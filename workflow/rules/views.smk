# Pictures of every stage, the viewer's state, and the report.


rule first_look:
    """Draw raw tiles at the stage's positions, or an image, beside the atlas, before long work."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        index=of_sample(inputs.index_file),
        image=of_sample(raw_data.pose_files),
    output:
        picture=report(
            result("views/first_look_{atlas}.png"),
            caption="../report/first_look.rst",
            category="Input",
            labels={"sample": "{sample}", "atlas": "{atlas}", "figure": "first look"},
        ),
    log:
        log_of("first_look/{atlas}"),
    benchmark:
        benchmark_of("first_look/{atlas}")
    # a wrong orientation is then seen before tiles are measured or an image is imported
    priority: 90
    conda:
        "../envs/views.yaml"
    threads: threads_of("first_look")
    resources:
        mem_mb=memory("first_look"),
        runtime=runtime("first_look"),
    params:
        code=code("first_look"),
        record=record_of("first_look/{atlas}"),
        channel=of_sample(raw_data.pose_side),
        channels=of_sample(Run.channels_of),
        image=of_sample(raw_data.pose_image),
        raw_state=of_sample(raw_data.pose_raw_state),
    script:
        "../scripts/first_look.py"


rule draw_flatfield:
    """Draw the flat-field of a channel and the mean tile before and after it."""
    input:
        acquisition=result("acquisition.json"),
        profile=result("intensity/{channel}/flatfield.tif"),
        info=result("intensity/{channel}/flatfield.json"),
    output:
        profile=report(
            result("views/flatfield_{channel}.png"),
            caption="../report/flatfield.rst",
            category="Intensity",
            labels={
                "sample": "{sample}",
                "channel": "{channel}",
                "figure": "flat-field",
            },
        ),
        means=report(
            result("views/tile_means_{channel}.png"),
            caption="../report/tile_means.rst",
            category="Intensity",
            labels={
                "sample": "{sample}",
                "channel": "{channel}",
                "figure": "mean tile",
            },
        ),
    log:
        log_of("draw_flatfield/{channel}"),
    benchmark:
        benchmark_of("draw_flatfield/{channel}")
    conda:
        "../envs/views.yaml"
    threads: threads_of("draw_flatfield")
    resources:
        mem_mb=memory("draw_flatfield"),
        runtime=runtime("draw_flatfield"),
    params:
        code=code("draw_flatfield"),
        record=record_of("draw_flatfield/{channel}"),
        raw_state=of_channel(raw_data.raw_state),
    script:
        "../scripts/draw_flatfield.py"


rule draw_sides:
    """Draw both sides of a channel, coarsely, and where each counts in the fused volume."""
    input:
        match=result("stitching/sides/{channel}.json"),
        acquisition=result("acquisition.json"),
    output:
        sides=report(
            result("views/sides_{channel}.png"),
            caption="../report/sides.rst",
            category="Stitching",
            labels={
                "sample": "{sample}",
                "channel": "{channel}",
                "figure": "sides",
            },
        ),
    log:
        log_of("draw_sides/{channel}"),
    benchmark:
        benchmark_of("draw_sides/{channel}")
    wildcard_constraints:
        channel=one_of(RUN.two_sided_channels),
    conda:
        "../envs/views.yaml"
    threads: threads_of("draw_sides")
    resources:
        mem_mb=memory("draw_sides"),
        runtime=runtime("draw_sides"),
    params:
        code=code("draw_sides"),
        record=record_of("draw_sides/{channel}"),
    script:
        "../scripts/draw_sides.py"


rule draw_stripes:
    """Draw the effect of intensity.destriping on the tile whose lines differ most."""
    input:
        unpack(of_channel(inputs.shading_files)),
        acquisition=result("acquisition.json"),
    output:
        stripes=report(
            result("views/stripes_{channel}.png"),
            caption="../report/stripes.rst",
            category="Intensity",
            labels={
                "sample": "{sample}",
                "channel": "{channel}",
                "figure": "stripes",
            },
        ),
    log:
        log_of("draw_stripes/{channel}"),
    benchmark:
        benchmark_of("draw_stripes/{channel}")
    conda:
        "../envs/views.yaml"
    threads: threads_of("draw_stripes")
    resources:
        mem_mb=memory("draw_stripes"),
        runtime=runtime("draw_stripes"),
    params:
        code=code("draw_stripes"),
        record=record_of("draw_stripes/{channel}"),
        store=setting("store"),
        raw_state=of_channel(raw_data.raw_state),
    script:
        "../scripts/draw_stripes.py"


rule draw_stitching:
    """Draw the placement, the worst seams and the loop closure; measure the seams in doubt."""
    input:
        unpack(of_sample(inputs.alignment_tiles)),
        acquisition=result("acquisition.json"),
        placement=result("stitching/placement.json"),
    output:
        placement=report(
            result("views/placement.png"),
            caption="../report/placement.rst",
            category="Stitching",
            labels={"sample": "{sample}", "figure": "placement"},
        ),
        seams=report(
            result("views/seams.png"),
            caption="../report/seams.rst",
            category="Stitching",
            labels={"sample": "{sample}", "figure": "worst seams"},
        ),
        measured=result("stitching/seams.json"),
        loops=report(
            result("views/loop_closure.png"),
            caption="../report/loop_closure.rst",
            category="Stitching",
            labels={"sample": "{sample}", "figure": "loop closure"},
        ),
    log:
        log_of("draw_stitching"),
    benchmark:
        benchmark_of("draw_stitching")
    conda:
        "../envs/views.yaml"
    threads: threads_of("draw_stitching")
    resources:
        mem_mb=memory("draw_stitching"),
        runtime=runtime("draw_stitching"),
    params:
        code=code("draw_stitching"),
        record=record_of("draw_stitching"),
        channel=of_sample(Run.alignment_side),
        store=setting("store"),
        fusion=of_sample(inputs.fusion_settings),
        raw_state=of_sample(raw_data.alignment_raw_state),
    script:
        "../scripts/draw_stitching.py"


rule draw_volume:
    """Draw the middle planes of a volume."""
    input:
        plan=result("{kind}/{channel}/plan.json"),
        complete=result("{kind}/{channel}/complete.json"),
    output:
        picture=report(
            result("views/{kind}_{channel}.png"),
            caption="../report/volume.rst",
            category="Volumes",
            labels={"sample": "{sample}", "channel": "{channel}", "figure": "{kind}"},
        ),
    log:
        log_of("draw_volume/{kind}_{channel}"),
    benchmark:
        benchmark_of("draw_volume/{kind}_{channel}")
    conda:
        "../envs/views.yaml"
    threads: threads_of("draw_volume")
    resources:
        mem_mb=memory("draw_volume"),
        runtime=runtime("draw_volume"),
    params:
        code=code("draw_volume"),
        record=record_of("draw_volume/{kind}_{channel}"),
        store=setting("store"),
    script:
        "../scripts/draw_volume.py"


rule draw_bias_field:
    """Draw the bias field of a channel and its effect."""
    input:
        complete=result("fused/{channel}/complete.json"),
        field=result("bias/{channel}.nrrd"),
        info=result("bias/{channel}.json"),
    output:
        picture=report(
            result("views/bias_{channel}.png"),
            caption="../report/bias.rst",
            category="Volumes",
            labels={
                "sample": "{sample}",
                "channel": "{channel}",
                "figure": "bias field",
            },
        ),
    log:
        log_of("draw_bias_field/{channel}"),
    benchmark:
        benchmark_of("draw_bias_field/{channel}")
    conda:
        "../envs/views.yaml"
    threads: threads_of("draw_bias_field")
    resources:
        mem_mb=memory("draw_bias_field"),
        runtime=runtime("draw_bias_field"),
    params:
        code=code("draw_bias_field"),
        record=record_of("draw_bias_field/{channel}"),
        store=setting("store"),
    script:
        "../scripts/draw_bias_field.py"


rule assess_registration:
    """Judge and draw a registration, for the whole brain and for each region."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        **registration_files(),
        initial=of_registration(inputs.initial_file),
        complete=of_sample(inputs.registration_volumes),
    output:
        verdicts=result("registration/{atlas}/verdicts.json"),
        quality=result("registration/{atlas}/quality.tsv"),
        map=report(
            result("views/quality_{atlas}.png"),
            caption="../report/quality.rst",
            category="Registration",
            labels={"sample": "{sample}", "atlas": "{atlas}", "figure": "regions"},
        ),
        overlay=report(
            result("views/overlay_{atlas}.png"),
            caption="../report/overlay.rst",
            category="Registration",
            labels={"sample": "{sample}", "atlas": "{atlas}", "figure": "overlay"},
        ),
        prediction=report(
            result("views/prediction_{atlas}.png"),
            caption="../report/prediction.rst",
            category="Registration",
            labels={"sample": "{sample}", "atlas": "{atlas}", "figure": "prediction"},
        ),
        posteriors=report(
            result("views/posteriors_{atlas}.png"),
            caption="../report/posteriors.rst",
            category="Registration",
            labels={"sample": "{sample}", "atlas": "{atlas}", "figure": "posteriors"},
        ),
        energy=report(
            result("views/energy_{atlas}.png"),
            caption="../report/energy.rst",
            category="Registration",
            labels={"sample": "{sample}", "atlas": "{atlas}", "figure": "energy"},
        ),
        jacobian=report(
            result("views/jacobian_{atlas}.png"),
            caption="../report/jacobian.rst",
            category="Registration",
            labels={"sample": "{sample}", "atlas": "{atlas}", "figure": "Jacobian"},
        ),
        histogram=report(
            result("views/jacobian_histogram_{atlas}.png"),
            caption="../report/jacobian.rst",
            category="Registration",
            labels={
                "sample": "{sample}",
                "atlas": "{atlas}",
                "figure": "Jacobian histogram",
            },
        ),
    log:
        log_of("assess_registration/{atlas}"),
    benchmark:
        benchmark_of("assess_registration/{atlas}")
    wildcard_constraints:
        atlas=one_of(set(RUN.atlases) - set(RUN.composed_atlases)),
    conda:
        "../envs/register.yaml"
    threads: threads_of("assess_registration")
    resources:
        mem_mb=memory("assess_registration"),
        runtime=runtime("assess_registration"),
    params:
        code=code("assess_registration"),
        record=record_of("assess_registration/{atlas}"),
        store=setting("store"),
        sources=of_sample(inputs.registration_sources),
        thresholds=setting("report.thresholds"),
    script:
        "../scripts/assess_registration.py"


rule assess_composition:
    """Judge and draw the regions of an atlas that the sample reaches through another one."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        unpack(of_registration(inputs.base_files)),
        **composed_files(),
        predicted=of_registration(inputs.fit_file, "predicted"),
        posteriors=of_registration(inputs.fit_file, "posteriors"),
        initial=of_registration(inputs.initial_file),
        complete=of_sample(inputs.registration_volumes),
    output:
        verdicts=result("registration/{atlas}/verdicts.json"),
        quality=result("registration/{atlas}/quality.tsv"),
        map=report(
            result("views/quality_{atlas}.png"),
            caption="../report/quality.rst",
            category="Registration",
            labels={"sample": "{sample}", "atlas": "{atlas}", "figure": "regions"},
        ),
        overlay=report(
            result("views/overlay_{atlas}.png"),
            caption="../report/overlay.rst",
            category="Registration",
            labels={"sample": "{sample}", "atlas": "{atlas}", "figure": "overlay"},
        ),
        jacobian=report(
            result("views/jacobian_{atlas}.png"),
            caption="../report/jacobian.rst",
            category="Registration",
            labels={"sample": "{sample}", "atlas": "{atlas}", "figure": "Jacobian"},
        ),
    log:
        log_of("assess_composition/{atlas}"),
    benchmark:
        benchmark_of("assess_composition/{atlas}")
    wildcard_constraints:
        atlas=one_of(RUN.composed_atlases),
    conda:
        "../envs/register.yaml"
    threads: threads_of("assess_composition")
    resources:
        mem_mb=memory("assess_composition"),
        runtime=runtime("assess_composition"),
    params:
        code=code("assess_composition"),
        record=record_of("assess_composition/{atlas}"),
        store=setting("store"),
        sources=of_sample(inputs.registration_sources),
        thresholds=setting("report.thresholds"),
    script:
        "../scripts/assess_composition.py"


rule draw_error_bars:
    """Draw how far the borders of regions may be off."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        unpack(of_registration(inputs.transform_files)),
        predicted=result("registration/{atlas}/predicted.nrrd"),
        deviation=result("registration/{atlas}/deviation.nrrd"),
    output:
        picture=report(
            result("views/error_bars_{atlas}.png"),
            caption="../report/error_bars.rst",
            category="Registration",
            labels={"sample": "{sample}", "atlas": "{atlas}", "figure": "error bars"},
        ),
    log:
        log_of("draw_error_bars/{atlas}"),
    benchmark:
        benchmark_of("draw_error_bars/{atlas}")
    conda:
        "../envs/views.yaml"
    threads: threads_of("draw_error_bars")
    resources:
        mem_mb=memory("draw_error_bars"),
        runtime=runtime("draw_error_bars"),
    params:
        code=code("draw_error_bars"),
        record=record_of("draw_error_bars/{atlas}"),
    script:
        "../scripts/draw_error_bars.py"


rule draw_brain:
    """Draw the borders of the regions at image resolution, and zooms of the worst regions."""
    input:
        labels=result("labels/{atlas}/complete.json"),
        complete=of_sample(inputs.registration_volume, "complete.json"),
        quality=result("registration/{atlas}/quality.tsv"),
    output:
        **{
            view: report(
                result(f"views/borders_{view}_{{atlas}}.jpg"),
                caption="../report/borders.rst",
                category="Registration",
                labels={
                    "sample": "{sample}",
                    "atlas": "{atlas}",
                    "figure": f"borders, {view}",
                },
            )
            for view in VIEWS
        },
        worst=report(
            result("views/worst_{atlas}.jpg"),
            caption="../report/worst.rst",
            category="Registration",
            labels={
                "sample": "{sample}",
                "atlas": "{atlas}",
                "figure": "worst regions",
            },
        ),
    log:
        log_of("draw_brain/{atlas}"),
    benchmark:
        benchmark_of("draw_brain/{atlas}")
    conda:
        "../envs/views.yaml"
    threads: threads_of("draw_brain")
    resources:
        mem_mb=memory("draw_brain"),
        runtime=runtime("draw_brain"),
    params:
        code=code("draw_brain"),
        record=record_of("draw_brain/{atlas}"),
        store=setting("store"),
        source=of_sample(inputs.registration_source),
    script:
        "../scripts/draw_brain.py"


rule make_slices:
    """Make one self-contained page to browse through slices of the registered sample."""
    input:
        unpack(of_atlas(inputs.prepared_atlas)),
        labels=result("labels/{atlas}/complete.json"),
        complete=of_sample(inputs.registration_volume, "complete.json"),
        posteriors=of_registration(inputs.fit_file, "posteriors"),
        basis=of_registration(inputs.fit_file, "basis"),
    output:
        page=report(
            result("views/slices_{atlas}.html"),
            caption="../report/slices.rst",
            category="Registration",
            labels={"sample": "{sample}", "atlas": "{atlas}", "figure": "slices"},
        ),
    log:
        log_of("make_slices/{atlas}"),
    benchmark:
        benchmark_of("make_slices/{atlas}")
    conda:
        "../envs/views.yaml"
    threads: threads_of("make_slices")
    resources:
        mem_mb=memory("make_slices"),
        runtime=runtime("make_slices"),
    params:
        code=code("make_slices"),
        page=lambda wildcards: provenance.page("slices"),
        record=record_of("make_slices/{atlas}"),
        store=setting("store"),
        source=of_sample(inputs.registration_source),
    script:
        "../scripts/make_slices.py"


rule draw_regions:
    """Draw the volumes of the largest regions."""
    input:
        table=result("regions/{atlas}.tsv"),
    output:
        picture=report(
            result("views/regions_{atlas}.png"),
            caption="../report/regions.rst",
            category="Regions",
            labels={"sample": "{sample}", "atlas": "{atlas}", "figure": "volumes"},
        ),
    log:
        log_of("draw_regions/{atlas}"),
    benchmark:
        benchmark_of("draw_regions/{atlas}")
    conda:
        "../envs/views.yaml"
    threads: threads_of("draw_regions")
    resources:
        mem_mb=memory("draw_regions"),
        runtime=runtime("draw_regions"),
    params:
        code=code("draw_regions"),
        record=record_of("draw_regions/{atlas}"),
    script:
        "../scripts/draw_regions.py"


rule draw_cells:
    """Draw the regions with most cells."""
    input:
        table=result("cells/{cells}/{atlas}/regions.tsv"),
    output:
        picture=report(
            result("views/cells_{cells}_{atlas}.png"),
            caption="../report/cells.rst",
            category="Cells",
            labels={"sample": "{sample}", "atlas": "{atlas}", "figure": "{cells}"},
        ),
    log:
        log_of("draw_cells/{cells}_{atlas}"),
    benchmark:
        benchmark_of("draw_cells/{cells}_{atlas}")
    conda:
        "../envs/views.yaml"
    threads: threads_of("draw_cells")
    resources:
        mem_mb=memory("draw_cells"),
        runtime=runtime("draw_cells"),
    params:
        code=code("draw_cells"),
        record=record_of("draw_cells/{cells}_{atlas}"),
    script:
        "../scripts/draw_cells.py"


rule draw_fiducials:
    """Draw the error of every fiducial."""
    input:
        table=result("accuracy/{atlas}.tsv"),
    output:
        picture=report(
            result("views/fiducials_{atlas}.png"),
            caption="../report/fiducials.rst",
            category="Registration",
            labels={
                "sample": "{sample}",
                "atlas": "{atlas}",
                "figure": "fiducial errors",
            },
        ),
    log:
        log_of("draw_fiducials/{atlas}"),
    benchmark:
        benchmark_of("draw_fiducials/{atlas}")
    conda:
        "../envs/views.yaml"
    threads: threads_of("draw_fiducials")
    resources:
        mem_mb=memory("draw_fiducials"),
        runtime=runtime("draw_fiducials"),
    params:
        code=code("draw_fiducials"),
        record=record_of("draw_fiducials/{atlas}"),
    script:
        "../scripts/draw_fiducials.py"


rule write_neuroglancer_state:
    """Write the state of a Neuroglancer viewer that shows everything of a sample."""
    input:
        unpack(of_sample(inputs.tiles_drawn)),
        unpack(of_sample(inputs.images_of_channels)),
        unpack(of_sample(inputs.derived_drawn)),
        labels=of_sample(Run.of_atlases, "labels/{atlas}/plan.json"),
        labels_complete=of_sample(Run.of_atlases, "labels/{atlas}/complete.json"),
        atlases=of_sample(inputs.prepared_atlases, "atlas"),
        ontologies=of_sample(inputs.prepared_atlases, "ontology"),
        meshes=of_sample(Run.of_atlases, "labels/{atlas}/meshes.json"),
        fiducials=of_sample(own_files.marked_points),
        points=of_sample(own_files.drawn_points),
        landmarks=of_sample(inputs.paired_landmarks),
        deviations=of_sample(inputs.deviation_volumes),
        cells=of_sample(inputs.cell_summaries),
    output:
        state=result("views/neuroglancer.json"),
    log:
        log_of("write_neuroglancer_state"),
    benchmark:
        benchmark_of("write_neuroglancer_state")
    conda:
        "../envs/views.yaml"
    threads: threads_of("write_neuroglancer_state")
    resources:
        mem_mb=memory("write_neuroglancer_state"),
        runtime=runtime("write_neuroglancer_state"),
    params:
        code=code("write_neuroglancer_state"),
        record=record_of("write_neuroglancer_state"),
        channels=of_sample(Run.channels_of),
        atlases=of_sample(Run.atlases_of),
        registered=of_sample(Run.registered_atlases),
        scored=of_sample(Run.atlases_with, "fiducials"),
        marked=of_sample(Run.atlases_with, "registration.landmarks"),
        points=setting("points"),
        viewer=setting("viewer"),
        derived=of_sample(inputs.shown_derived),
    script:
        "../scripts/write_neuroglancer_state.py"


rule make_report:
    """Make one self-contained page: verdicts, pictures, numbers, time and memory."""
    input:
        index=of_sample(inputs.index_file),
        files=of_sample(targets.reported_files),
    output:
        report=report(
            result("report.html"),
            caption="../report/report.rst",
            category="Report",
            labels={"sample": "{sample}"},
        ),
    log:
        log_of("make_report"),
    benchmark:
        benchmark_of("make_report")
    conda:
        "../envs/views.yaml"
    threads: threads_of("make_report")
    resources:
        mem_mb=memory("make_report"),
        runtime=runtime("make_report"),
    params:
        code=code("make_report"),
        page=lambda wildcards: provenance.page("report"),
        record=record_of("make_report"),
        store=setting("store"),
        provenance=of_sample(provenance.provenance),
        settings=of_sample(provenance.all_settings),
        work=of_sample(provenance.planned_work),
        thresholds=setting("report.thresholds"),
    script:
        "../scripts/make_report.py"

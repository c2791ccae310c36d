# Stitching: displacements of neighbouring tiles, their placement, TeraStitcher's five files.


rule import_tiles:
    """Write the nominal grid as TeraStitcher's xml_import.xml, or use the user's file."""
    input:
        acquisition=result("acquisition.json"),
        own=of_sample(own_files.own_xml, "xml_import"),
        configuration=of_sample(own_files.own_tile_configuration),
    output:
        xml=result("stitching/xml_import.xml"),
    log:
        log_of("import_tiles"),
    benchmark:
        benchmark_of("import_tiles")
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("import_tiles")
    resources:
        mem_mb=memory("import_tiles"),
        runtime=runtime("import_tiles"),
    params:
        code=code("import_tiles"),
        record=record_of("import_tiles"),
        channel=of_sample(Run.alignment_side),
    script:
        "../scripts/import_tiles.py"


rule estimate_steps:
    """Find the true step of the stage, because the overlap in the metadata may be wrong."""
    input:
        unpack(of_sample(inputs.unplaced_tiles)),
        acquisition=result("acquisition.json"),
        nominal=of_sample(own_files.own_xml, "xml_import"),
        configuration=of_sample(own_files.own_tile_configuration),
    output:
        steps=result("stitching/steps.json"),
    log:
        log_of("estimate_steps"),
    benchmark:
        benchmark_of("estimate_steps")
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("estimate_steps")
    resources:
        mem_mb=memory("estimate_steps"),
        runtime=runtime("estimate_steps"),
    params:
        code=code("estimate_steps"),
        record=record_of("estimate_steps"),
        channel=of_sample(Run.alignment_side),
        settings=setting("stitching.displacement"),
        store=setting("store"),
        raw_state=of_sample(raw_data.alignment_raw_state),
    script:
        "../scripts/estimate_steps.py"


rule measure_displacements:
    """Measure the displacements of one batch of neighbouring tiles in the alignment channel."""
    input:
        unpack(of_sample(inputs.measured_tiles)),
        acquisition=result("acquisition.json"),
        steps=result("stitching/steps.json"),
        nominal=of_sample(own_files.own_xml, "xml_import"),
        configuration=of_sample(own_files.own_tile_configuration),
    output:
        pairs=result("stitching/pairs/{batch}.json"),
    log:
        log_of("measure_displacements/{batch}"),
    benchmark:
        benchmark_of("measure_displacements/{batch}")
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("measure_displacements")
    resources:
        mem_mb=memory("measure_displacements"),
        runtime=runtime("measure_displacements"),
    params:
        code=code("measure_displacements"),
        record=record_of("measure_displacements/{batch}"),
        channel=of_sample(Run.alignment_side),
        sides=of_sample(inputs.measured_ends),
        settings=setting("stitching.displacement"),
        model=setting("stitching.model"),
        store=setting("store"),
        batches=batches(stitching_cost.pair_batches),
        raw_state=of_sample(raw_data.measured_raw_state),
    script:
        "../scripts/measure_displacements.py"


rule gather_displacements:
    """Gather all measured displacements into xml_displcomp.xml, or use the user's file."""
    input:
        acquisition=result("acquisition.json"),
        xml=result("stitching/xml_import.xml"),
        pairs=of_sample(inputs.measured_pairs),
        own=of_sample(own_files.own_xml, "xml_displcomp"),
    output:
        xml=result("stitching/xml_displcomp.xml"),
    log:
        log_of("gather_displacements"),
    benchmark:
        benchmark_of("gather_displacements")
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("gather_displacements")
    resources:
        mem_mb=memory("gather_displacements"),
        runtime=runtime("gather_displacements"),
    params:
        code=code("gather_displacements"),
        record=record_of("gather_displacements"),
    script:
        "../scripts/gather_displacements.py"


rule project_displacements:
    """Reduce the displacements of each pair to one: xml_displproj.xml."""
    input:
        acquisition=result("acquisition.json"),
        xml=result("stitching/xml_displcomp.xml"),
        own=of_sample(own_files.own_xml, "xml_displproj"),
    output:
        xml=result("stitching/xml_displproj.xml"),
    log:
        log_of("project_displacements"),
    benchmark:
        benchmark_of("project_displacements")
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("project_displacements")
    resources:
        mem_mb=memory("project_displacements"),
        runtime=runtime("project_displacements"),
    params:
        code=code("project_displacements"),
        record=record_of("project_displacements"),
    script:
        "../scripts/project_displacements.py"


rule threshold_displacements:
    """Replace displacements that are not reliable by the nominal ones: xml_displthres.xml."""
    input:
        acquisition=result("acquisition.json"),
        xml=result("stitching/xml_displproj.xml"),
        own=of_sample(own_files.own_xml, "xml_displthres"),
    output:
        xml=result("stitching/xml_displthres.xml"),
    log:
        log_of("threshold_displacements"),
    benchmark:
        benchmark_of("threshold_displacements")
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("threshold_displacements")
    resources:
        mem_mb=memory("threshold_displacements"),
        runtime=runtime("threshold_displacements"),
    params:
        code=code("threshold_displacements"),
        record=record_of("threshold_displacements"),
        reliability=setting("stitching.min_reliability"),
    script:
        "../scripts/threshold_displacements.py"


rule place_tiles:
    """Solve the placement of all tiles, robustly: xml_merging.xml and placement.json."""
    input:
        acquisition=result("acquisition.json"),
        xml=result("stitching/xml_displthres.xml"),
        pairs=of_sample(inputs.measured_pairs),
        own=of_sample(own_files.own_xml, "xml_merging"),
        nominal=of_sample(own_files.own_xml, "xml_import"),
        configuration=of_sample(own_files.own_tile_configuration),
    output:
        xml=result("stitching/xml_merging.xml"),
        placement=result("stitching/placement.json"),
    log:
        log_of("place_tiles"),
    benchmark:
        benchmark_of("place_tiles")
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("place_tiles")
    resources:
        mem_mb=memory("place_tiles"),
        runtime=runtime("place_tiles"),
    params:
        code=code("place_tiles"),
        record=record_of("place_tiles"),
        settings=setting("stitching.placement"),
        model=setting("stitching.model"),
    script:
        "../scripts/place_tiles.py"


rule measure_channel_shift:
    """Measure how a channel is shifted against the alignment channel, on a few tiles."""
    input:
        acquisition=result("acquisition.json"),
    output:
        shift=result("stitching/channels/{channel}.json"),
    log:
        log_of("measure_channel_shift/{channel}"),
    benchmark:
        benchmark_of("measure_channel_shift/{channel}")
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("measure_channel_shift")
    resources:
        mem_mb=memory("measure_channel_shift"),
        runtime=runtime("measure_channel_shift"),
    params:
        code=code("measure_channel_shift"),
        record=record_of("measure_channel_shift/{channel}"),
        against=of_channel(Run.shifted_against),
        given=of_channel(inputs.given_shift),
        search_um=setting("stitching.channel_search_um"),
        raw_state=of_channel(raw_data.compared_raw_state),
    script:
        "../scripts/measure_channel_shift.py"


rule match_sides:
    """Compare the two sides of a channel: brightness where they meet, and where each is better."""
    input:
        unpack(of_channel(inputs.compared_sides)),
        acquisition=result("acquisition.json"),
    output:
        match=result("stitching/sides/{channel}.json"),
    log:
        log_of("match_sides/{channel}"),
    benchmark:
        benchmark_of("match_sides/{channel}")
    wildcard_constraints:
        channel=one_of(RUN.two_sided_channels),
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("match_sides")
    resources:
        mem_mb=memory("match_sides"),
        runtime=runtime("match_sides"),
    params:
        code=code("match_sides"),
        record=record_of("match_sides/{channel}"),
        sides=of_channel(inputs.side_ends),
        settings=setting("fusion.sides"),
        store=setting("store"),
        raw_state=of_channel(raw_data.channel_raw_state),
    script:
        "../scripts/match_sides.py"


rule export_render:
    """Write tilespecs, point matches and the stack for Render, and Fiji's tile configurations."""
    input:
        acquisition=result("acquisition.json"),
        placement=result("stitching/placement.json"),
        pairs=of_sample(inputs.measured_pairs),
        nominal=of_sample(own_files.own_xml, "xml_import"),
        configuration=of_sample(own_files.own_tile_configuration),
    output:
        tilespecs=result("stitching/render/tilespecs.json.gz"),
        matches=result("stitching/render/point_matches.json.gz"),
        stack=result("stitching/render/stack.json"),
        nominal=result("stitching/TileConfiguration.txt"),
        registered=result("stitching/TileConfiguration.registered.txt"),
    log:
        log_of("export_render"),
    benchmark:
        benchmark_of("export_render")
    conda:
        "../envs/tiles.yaml"
    threads: threads_of("export_render")
    resources:
        mem_mb=memory("export_render"),
        runtime=runtime("export_render"),
    params:
        code=code("export_render"),
        record=record_of("export_render"),
        channel=of_sample(Run.alignment_side),
    script:
        "../scripts/export_render.py"

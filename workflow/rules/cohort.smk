# Cohort: results of many samples gathered, and two groups of them compared.


rule gather_cohort:
    """Gather the values of all regions and samples, and judge the samples' registrations."""
    input:
        unpack(of_comparison(comparisons.sample_tables)),
        table=of_comparison(comparisons.table_of),
    output:
        values=cohort_file("values.csv"),
        samples=cohort_file("samples.tsv"),
    log:
        cohort_file("logs/gather_cohort.log"),
    benchmark:
        cohort_file("benchmarks/gather_cohort.tsv")
    conda:
        "../envs/views.yaml"
    threads: threads_of("gather_cohort")
    resources:
        mem_mb=memory("gather_cohort"),
        runtime=runtime("gather_cohort"),
    params:
        code=code("gather_cohort"),
        record=cohort_record("gather_cohort"),
        settings=of_comparison(comparisons.settings_of),
    script:
        "../scripts/gather_cohort.py"


rule compare_regions:
    """Compare every region of two groups: effect size, p-value, false discovery rate."""
    input:
        table=of_comparison(comparisons.table_of),
        values=cohort_file("values.csv"),
        samples=cohort_file("samples.tsv"),
    output:
        table=cohort_file("statistics.tsv"),
    log:
        cohort_file("logs/compare_regions.log"),
    benchmark:
        cohort_file("benchmarks/compare_regions.tsv")
    conda:
        "../envs/views.yaml"
    threads: threads_of("compare_regions")
    resources:
        mem_mb=memory("compare_regions"),
        runtime=runtime("compare_regions"),
    params:
        code=code("compare_regions"),
        record=cohort_record("compare_regions"),
        settings=of_comparison(comparisons.settings_of),
    script:
        "../scripts/compare_regions.py"


rule map_cohort:
    """Compare a map in the atlas voxel by voxel: means, spread, standardised difference."""
    input:
        unpack(of_map(comparisons.sample_maps)),
        table=of_comparison(comparisons.table_of),
        samples=cohort_file("samples.tsv"),
    output:
        mean_reference=cohort_file("maps/{map}/mean_reference.nrrd"),
        mean_compared=cohort_file("maps/{map}/mean_compared.nrrd"),
        sd=cohort_file("maps/{map}/sd.nrrd"),
        cohens_d=cohort_file("maps/{map}/cohens_d.nrrd"),
    log:
        cohort_file("logs/map_cohort/{map}.log"),
    benchmark:
        cohort_file("benchmarks/map_cohort/{map}.tsv")
    conda:
        "../envs/views.yaml"
    threads: threads_of("map_cohort")
    resources:
        mem_mb=memory("map_cohort"),
        runtime=runtime("map_cohort"),
    params:
        code=code("map_cohort"),
        record=cohort_record("map_cohort/{map}"),
        settings=of_comparison(comparisons.settings_of),
        volumes=of_map(comparisons.sample_volumes),
    script:
        "../scripts/map_cohort.py"


rule draw_cohort:
    """Draw effect sizes against p-values, and the clearest regions sample by sample."""
    input:
        table=cohort_file("statistics.tsv"),
        values=cohort_file("values.csv"),
        samples=cohort_file("samples.tsv"),
    output:
        volcano=cohort_file("volcano.png"),
        heat_map=cohort_file("heat_map.png"),
    log:
        cohort_file("logs/draw_cohort.log"),
    benchmark:
        cohort_file("benchmarks/draw_cohort.tsv")
    conda:
        "../envs/views.yaml"
    threads: threads_of("draw_cohort")
    resources:
        mem_mb=memory("draw_cohort"),
        runtime=runtime("draw_cohort"),
    params:
        code=code("draw_cohort"),
        record=cohort_record("draw_cohort"),
        settings=of_comparison(comparisons.settings_of),
    script:
        "../scripts/draw_cohort.py"


rule draw_cohort_map:
    """Draw a compared map in three planes of the atlas."""
    input:
        table=of_comparison(comparisons.table_of),
        mean_reference=cohort_file("maps/{map}/mean_reference.nrrd"),
        mean_compared=cohort_file("maps/{map}/mean_compared.nrrd"),
        sd=cohort_file("maps/{map}/sd.nrrd"),
        cohens_d=cohort_file("maps/{map}/cohens_d.nrrd"),
    output:
        picture=cohort_file("maps/{map}.png"),
    log:
        cohort_file("logs/draw_cohort_map/{map}.log"),
    benchmark:
        cohort_file("benchmarks/draw_cohort_map/{map}.tsv")
    conda:
        "../envs/views.yaml"
    threads: threads_of("draw_cohort_map")
    resources:
        mem_mb=memory("draw_cohort_map"),
        runtime=runtime("draw_cohort_map"),
    params:
        code=code("draw_cohort_map"),
        settings=of_comparison(comparisons.settings_of),
        record=cohort_record("draw_cohort_map/{map}"),
    script:
        "../scripts/draw_cohort_map.py"


rule report_cohort:
    """Make one self-contained page of a comparison: samples, regions, maps, methods."""
    input:
        table=of_comparison(comparisons.table_of),
        statistics=cohort_file("statistics.tsv"),
        samples=cohort_file("samples.tsv"),
        volcano=cohort_file("volcano.png"),
        heat_map=cohort_file("heat_map.png"),
        maps=of_comparison(comparisons.pictures),
    output:
        report=report(
            cohort_file("report.html"),
            caption="../report/cohort.rst",
            category="Cohort",
            labels={"comparison": "{comparison}"},
        ),
    log:
        cohort_file("logs/report_cohort.log"),
    benchmark:
        cohort_file("benchmarks/report_cohort.tsv")
    conda:
        "../envs/views.yaml"
    threads: threads_of("report_cohort")
    resources:
        mem_mb=memory("report_cohort"),
        runtime=runtime("report_cohort"),
    params:
        code=code("report_cohort"),
        page=lambda wildcards: provenance.page("cohort"),
        record=cohort_record("report_cohort"),
        settings=of_comparison(comparisons.settings_of),
    script:
        "../scripts/report_cohort.py"

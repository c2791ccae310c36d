# Atlases: template, annotation and ontology, checked and put into one known frame.


rule prepare_atlas:
    """Check an atlas and copy it into the form that all later stages read."""
    input:
        unpack(atlas_sources),
        data=atlas_data,
    output:
        template=atlas_file("template.nrrd"),
        annotation=atlas_file("annotation.nrrd"),
        hemispheres=atlas_file("hemispheres.nrrd"),
        ontology=atlas_file("ontology.tsv"),
        atlas=atlas_file("atlas.json"),
    log:
        f"{RESULTS}/atlases/logs/{{atlas}}.log",
    benchmark:
        f"{RESULTS}/atlases/benchmarks/{{atlas}}.tsv"
    priority: 100
    conda:
        "../envs/register.yaml"
    threads: threads_of("prepare_atlas")
    resources:
        mem_mb=memory("prepare_atlas"),
        runtime=runtime("prepare_atlas"),
    params:
        code=code("prepare_atlas"),
        settings=atlas_settings,
        state=atlas_state,
    script:
        "../scripts/prepare_atlas.py"


rule prepare_atlas_image:
    """Check a further image of an atlas, on the grid of its template, and copy it likewise."""
    input:
        template=atlas_image("template"),
        image=atlas_image("image"),
        data=atlas_data,
    output:
        image=atlas_file("images/{image}.nrrd"),
    log:
        f"{RESULTS}/atlases/logs/{{atlas}}_{{image}}.log",
    benchmark:
        f"{RESULTS}/atlases/benchmarks/{{atlas}}_{{image}}.tsv"
    priority: 100
    conda:
        "../envs/register.yaml"
    threads: threads_of("prepare_atlas_image")
    resources:
        mem_mb=memory("prepare_atlas_image"),
        runtime=runtime("prepare_atlas_image"),
    params:
        code=code("prepare_atlas_image"),
        settings=atlas_settings,
        path=lambda wildcards: atlas_setting(wildcards)["images"][wildcards.image],
        state=atlas_state,
    script:
        "../scripts/prepare_atlas_image.py"

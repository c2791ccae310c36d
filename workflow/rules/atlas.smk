# Atlases: template, annotation and ontology, checked and put into one known frame.


rule prepare_atlas:
    """Check an atlas and copy it into the form that all later stages read."""
    input:
        unpack(of_atlas(inputs.atlas_sources)),
        data=of_atlas(inputs.atlas_data),
    output:
        template=atlas_file("template.nrrd"),
        annotation=atlas_file("annotation.nrrd"),
        hemispheres=atlas_file("hemispheres.nrrd"),
        ontology=atlas_file("ontology.tsv"),
        atlas=atlas_file("atlas.json"),
    log:
        f"{RUN.results}/atlases/logs/{{atlas}}.log",
    benchmark:
        f"{RUN.results}/atlases/benchmarks/{{atlas}}.tsv"
    priority: 90
    conda:
        "../envs/register.yaml"
    threads: threads_of("prepare_atlas")
    resources:
        mem_mb=memory("prepare_atlas"),
        runtime=runtime("prepare_atlas"),
    params:
        code=code("prepare_atlas"),
        settings=of_atlas(inputs.atlas_settings),
        state=of_atlas(inputs.atlas_state),
    script:
        "../scripts/prepare_atlas.py"


rule prepare_atlas_image:
    """Check an additional image of an atlas, on the grid of its template, and copy it likewise."""
    input:
        template=of_atlas(inputs.template_source),
        image=of_image(inputs.image_source),
        data=of_atlas(inputs.atlas_data),
    output:
        image=atlas_file("images/{image}.nrrd"),
        checksum=atlas_file("images/{image}.json"),
    log:
        f"{RUN.results}/atlases/logs/{{atlas}}_{{image}}.log",
    benchmark:
        f"{RUN.results}/atlases/benchmarks/{{atlas}}_{{image}}.tsv"
    priority: 90
    conda:
        "../envs/register.yaml"
    threads: threads_of("prepare_atlas_image")
    resources:
        mem_mb=memory("prepare_atlas_image"),
        runtime=runtime("prepare_atlas_image"),
    params:
        code=code("prepare_atlas_image"),
        settings=of_atlas(inputs.atlas_settings),
        path=of_image(inputs.image_path),
        state=of_atlas(inputs.atlas_state),
    script:
        "../scripts/prepare_atlas_image.py"

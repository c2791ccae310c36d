# Targets: the whole work, and parts of it, for all samples of the run.


rule corrected_tiles:
    """Flat-fields, and corrected tiles where they are kept."""
    input:
        for_samples(tile_files),


rule stitching:
    """Placement of the tiles, TeraStitcher's five files, Render's files."""
    input:
        for_samples(stitching_files),


rule fused_volumes:
    """Fused volumes of all channels."""
    input:
        for_samples(fused_files),


rule corrected_volumes:
    """Fused volumes divided by their bias fields."""
    input:
        for_samples(corrected_volume_files),


rule previews:
    """Initial poses with their pictures: look before the registration runs."""
    input:
        for_samples(
            lambda sample: of_atlases(sample, "registration/{atlas}/preview.png")
        ),


rule registration:
    """Registrations of all atlases."""
    input:
        for_samples(registration_files),


rule regions:
    """Labels, meshes, region tables, registration errors, points, channels in the atlas."""
    input:
        for_samples(region_files),


# Targets have nothing to run. The others write one small file of metadata in a second: where they
# stand between two jobs, waiting in a queue would cost far more than they do.
localrules:
    corrected_tiles,
    stitching,
    fused_volumes,
    corrected_volumes,
    previews,
    registration,
    regions,
    import_tiles,
    gather_displacements,
    project_displacements,
    threshold_displacements,
    init_volume,
    init_import,
    init_corrected_volume,
    init_labels,
    init_atlas_space,
    pair_landmarks,

# Targets: the whole work, and parts of it, for all samples of the run.


rule corrected_tiles:
    """Flat-fields, and corrected tiles where they are kept."""
    input:
        for_samples(targets.flatfield_files),


rule stitching:
    """Placement of the tiles, TeraStitcher's five files, Render's files."""
    input:
        for_samples(targets.stitching_files),


rule fused_volumes:
    """Fused volumes of all channels."""
    input:
        for_samples(targets.fused_files),


rule corrected_volumes:
    """Fused volumes divided by their bias fields."""
    input:
        for_samples(targets.corrected_volume_files),


rule previews:
    """Initial poses with their pictures, to be checked before the registration runs."""
    input:
        for_samples(targets.preview_files),


rule registration:
    """Registrations of all atlases."""
    input:
        for_samples(targets.registration_files),


rule regions:
    """Labels, meshes, region tables, registration errors, points, and channels in atlas space."""
    input:
        for_samples(targets.region_files),


rule derived_volumes:
    """Volumes and tables of the section derived: of the configuration."""
    input:
        for_samples(targets.derived_files),


rule exports:
    """Files for other programs, as the section export says."""
    input:
        for_samples(targets.exported_files),


rule cohort:
    """Pages of all comparisons of groups, with their tables and maps."""
    input:
        lambda wildcards: comparisons.report_files(RUN),


rule verified_volumes:
    """Read all volumes back and compare them with what was written; not part of a normal run."""
    input:
        for_samples(targets.verified_files),


rule plan:
    """Print what a complete run needs: jobs, hours, bytes, memory, space. Runs nothing else."""
    log:
        f"{RUN.results}/plan.txt",
    run:
        text = planned_run()
        Path(log[0]).write_text(text)
        print(text, flush=True)


rule remove_intermediates:
    """List corrected tiles, checkpoints, leftovers of killed jobs; remove them when confirmed."""
    log:
        f"{RUN.results}/remove_intermediates.txt",
    run:
        removal_of(log[0], cleanup.clean_up, removal.find_intermediates)


rule remove_derived:
    """List derived volumes that derived: no longer names; remove them when confirmed."""
    log:
        f"{RUN.results}/remove_derived.txt",
    run:
        removal_of(log[0], cleanup.remove_derived)


rule remove_sample:
    """List all results of a sample and its part of the store; remove them when confirmed."""
    log:
        f"{RUN.results}/remove_sample.txt",
    run:
        removal_of(log[0], cleanup.clean_up, removal.find_sample)


# Targets have nothing to run. The others write one small file of metadata in a second; waiting in a
# queue between two jobs would take far longer.
localrules:
    corrected_tiles,
    stitching,
    fused_volumes,
    corrected_volumes,
    previews,
    registration,
    regions,
    derived_volumes,
    exports,
    cohort,
    verified_volumes,
    plan,
    remove_intermediates,
    remove_derived,
    remove_sample,
    import_tiles,
    gather_displacements,
    project_displacements,
    threshold_displacements,
    init_volume,
    init_import,
    init_corrected_volume,
    init_labels,
    init_atlas_space,
    init_derived,
    pair_landmarks,

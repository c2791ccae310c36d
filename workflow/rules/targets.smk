# Targets: the whole work, and parts of it, for all samples of the run.


def for_samples(files):
    """Input function: ``files(sample)`` for all samples of the run, in one list."""
    return lambda wildcards: [path for sample in SAMPLES for path in files(sample)]


def tile_files(sample):
    files = of_channels(sample, "intensity/{channel}/flatfield.tif")
    if SAMPLES[sample]["intensity"]["corrected_tiles"] != "stream":
        batches = range(tile_batches(sample))
        channels = SAMPLES[sample]["input"]["channels"]
        files += expand(
            result("corrected/{channel}/batches/{batch}.json"),
            sample=sample,
            channel=channels,
            batch=batches,
        )
    return files


def stitching_files(sample):
    names = ("xml_merging.xml", "placement.json", "render/tilespecs.json.gz")
    return expand(result("stitching/{name}"), sample=sample, name=names)


def fused_files(sample):
    return of_channels(sample, "fused/{channel}/complete.json")


def corrected_volume_files(sample):
    if not SAMPLES[sample]["intensity"]["bias"]["enabled"]:
        return []
    return of_channels(sample, "corrected_volume/{channel}/complete.json")


def registration_files(sample):
    return of_atlases(sample, "registration/{atlas}/transform.json")


def region_files(sample):
    config = SAMPLES[sample]
    files = of_atlases(sample, "regions/{atlas}.tsv")
    files += of_atlases(sample, "labels/{atlas}/meshes.json")
    files += expand(result("accuracy/{atlas}.tsv"), sample=sample, atlas=scored(sample))
    files += expand(
        result("points/{points}.csv"), sample=sample, points=config["points"]
    )
    if config["atlas_space"]["enabled"]:
        files += [
            path
            for atlas in registration_atlases(sample)
            for path in of_channels(
                sample, f"atlas_space/{atlas}/{{channel}}/complete.json"
            )
        ]
    return files


def all_files(sample):
    files = (
        stitching_files(sample) + fused_files(sample) + corrected_volume_files(sample)
    )
    files += registration_files(sample) + region_files(sample)
    if SAMPLES[sample]["intensity"]["corrected_tiles"] == "temporary":
        files += of_channels(sample, "corrected/{channel}/dropped.json")
    return files + [result("report.html").format(sample=sample)]


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
    """Labels, meshes, region tables, fiducial errors, points, channels in the atlas."""
    input:
        for_samples(region_files),


localrules:
    corrected_tiles,
    stitching,
    fused_volumes,
    corrected_volumes,
    previews,
    registration,
    regions,

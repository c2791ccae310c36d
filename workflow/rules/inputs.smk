# Input functions: which files a job needs, given the configuration of its sample.


def index_of(wildcards):
    """The description of a sample's input, which everything about a whole sample hangs on."""
    name = "input.json" if wildcards.sample in IMPORTED else "acquisition.json"
    return result(name).format(sample=wildcards.sample)


def tiles_drawn(wildcards):
    """Files that the outlines of the tiles are drawn from; a volume has no tiles."""
    if wildcards.sample in IMPORTED:
        return {}
    names = {
        "acquisition": "acquisition.json",
        "placement": "stitching/placement.json",
    }
    return {k: result(v).format(sample=wildcards.sample) for k, v in names.items()}


def checked_settings(sample):
    """What check_inputs checks: all input that the configuration names beside the raw data."""
    config = SAMPLES[sample]
    keys = ("store", "fiducials", "points", "sample_labels")
    return {key: config[key] for key in keys} | {
        "landmarks": config["registration"]["landmarks"],
        "profile": config["intensity"]["flatfield"]["image"],
        "stitching": {
            key: config["stitching"][key] for key in ("xml", "tile_configuration")
        },
    }


def own_files(wildcards):
    """Files of the user beside the raw data: XML, positions, flat-field, marked points, labels."""
    config = SAMPLES[wildcards.sample]
    files = list(config["stitching"]["xml"].values())
    files += own_tile_configuration(wildcards)
    files += own_profile(wildcards)
    for pairs in (config["fiducials"], config["registration"]["landmarks"]):
        for pair in pairs.values():
            files += [pair["sample"], pair["atlas"]]
    for entries in (config["points"], config["sample_labels"]):
        files += [entry["path"] for entry in entries.values()]
    return files


# ------------------------------------------------------------------ tiles and stitching
def corrected_output(path):
    """Batches of corrected tiles are temporary files if the configuration says so."""
    kinds = {s["intensity"]["corrected_tiles"] for s in SAMPLES.values()}
    if kinds >= {"temporary", "keep"}:
        raise WorkflowError(
            "intensity.corrected_tiles: the samples of one run mix keep and temporary; "
            "run them separately"
        )
    return temp(path) if "temporary" in kinds else path


def destripes(sample):
    """Whether the brightness of lines is corrected, or is if the tiles' statistics say so."""
    intensity = SAMPLES[sample]["intensity"]
    if intensity["stripes"] == "auto":
        return intensity["flatfield"]["method"] == "statistics"
    return intensity["stripes"] != "none"


def shading_of(wildcards, channel):
    """What it takes to correct a channel's tiles: the flat-field, gains of lines if wanted."""
    names = {"profile": "flatfield.tif", "info": "flatfield.json"}
    if destripes(wildcards.sample):
        names["stripes"] = "stripes.json"
    folder = result(f"intensity/{channel}").format(sample=wildcards.sample)
    return {name: f"{folder}/{file}" for name, file in names.items()}


def channel_shading(wildcards):
    return shading_of(wildcards, wildcards.channel)


def tiles_of(wildcards, channel):
    """What it takes to read a channel's tiles: their shading, or the corrected arrays."""
    files = shading_of(wildcards, channel)
    if not streams(wildcards):
        files["corrected"] = expand(
            result("corrected/{channel}/batches/{batch}.json"),
            sample=wildcards.sample,
            channel=channel,
            batch=range(planning.tile_batches(brain(wildcards.sample))),
        )
    return files


def channel_tiles(wildcards):
    return tiles_of(wildcards, wildcards.channel)


def alignment_tiles(wildcards):
    return tiles_of(wildcards, alignment_channel(wildcards))


def unplaced_tiles(wildcards):
    """What it takes to read tiles whose positions are not known yet: a first flat-field."""
    folder = result(f"intensity/{alignment_channel(wildcards)}/nominal").format(
        sample=wildcards.sample
    )
    return {"profile": f"{folder}/flatfield.tif", "info": f"{folder}/flatfield.json"}


def own_xml(name):
    """Input function: the user's own file for one TeraStitcher step, if there is one."""

    def files(wildcards):
        path = SAMPLES[wildcards.sample]["stitching"]["xml"].get(name)
        return [path] if path else []

    return files


def own_tile_configuration(wildcards):
    """The user's own nominal positions from Fiji or Render, if there are any."""
    path = SAMPLES[wildcards.sample]["stitching"]["tile_configuration"]
    return [path] if path else []


def own_profile(wildcards):
    """The user's own flat-field, if there is one."""
    path = SAMPLES[wildcards.sample]["intensity"]["flatfield"]["image"]
    return [path] if path else []


def sum_settings(wildcards):
    """Options of the statistics of tiles, without what only the estimate reads."""
    options = setting("intensity.flatfield")(wildcards)
    return {k: options[k] for k in ("tiles", "planes", "slabs", "blocks")}


def measured_pairs(wildcards):
    """Batches of measured displacements; none where the user brings displacements or positions."""
    own = SAMPLES[wildcards.sample]["stitching"]["xml"]
    if set(own) - {"xml_import"}:
        return []
    return batch_files("stitching/pairs/{batch}.json", planning.pair_batches)(wildcards)


# ------------------------------------------------------------------ volumes
def writer_of_volume(wildcards):
    """Rule that writes the blocks of a volume."""
    imported = wildcards.sample in IMPORTED
    writers = {
        "fused": "import_volume" if imported else "fuse_block",
        "corrected_volume": "correct_volume",
        "labels": "transform_labels",
        "atlas_space": "transform_volume",
    }
    return writers[wildcards.volume.split("/")[0]]


def blocks_of_volume(wildcards):
    count = volume_batches(wildcards.volume, wildcards.sample)
    return expand(
        result("{volume}/batches/{batch}.json"),
        sample=wildcards.sample,
        volume=wildcards.volume,
        batch=range(count),
    )


def measured_file(wildcards, name, channel=None):
    """A file of the volume that later stages read of a channel."""
    channel = channel or wildcards.channel
    return result(f"{measured_volume(wildcards)}/{channel}/{name}").format(
        sample=wildcards.sample
    )


def registration_volume(wildcards, name):
    """A file of the first registered channel, whose grid is that of all channels."""
    return measured_file(wildcards, name, registration_channels(wildcards)[0])


def registration_volumes(wildcards):
    """The last file of every registered channel: the volumes are complete."""
    channels = registration_channels(wildcards)
    return [measured_file(wildcards, "complete.json", channel) for channel in channels]


def registration_sources(wildcards):
    """Volumes of the registered channels, by channel."""
    volume = measured_volume(wildcards)
    return {
        channel: f"{volume}/{channel}" for channel in registration_channels(wildcards)
    }


def registration_source(wildcards):
    return next(iter(registration_sources(wildcards).values()))


def images_of_atlas(wildcards):
    """Further images of an atlas, by name, in terareg's form."""
    names = atlas_setting(wildcards)["images"]
    path = atlas_file("images/{image}.nrrd")
    return [path.format(atlas=wildcards.atlas, image=name) for name in names]


def bias_settings(wildcards):
    """Options of the estimate, without what other rules read of that section."""
    options = setting("intensity.bias")(wildcards)
    return {k: v for k, v in options.items() if k not in ("enabled", "volume_um")}


def registration_settings(wildcards):
    """Options of the registration itself, without what other rules read of that section."""
    others = (
        "channel",
        "atlases",
        "pose",
        "threads",
        "landmarks",
        "landmark_um",
        "export",
    )
    return {
        k: v for k, v in setting("registration")(wildcards).items() if k not in others
    }


def landmarks_of(wildcards):
    """The paired landmarks that a registration reads, if there are any."""
    if wildcards.atlas not in SAMPLES[wildcards.sample]["registration"]["landmarks"]:
        return {}
    path = result("registration/{atlas}/landmarks.json")
    return {"landmarks": path.format(sample=wildcards.sample, atlas=wildcards.atlas)}


def landmark_file(wildcards, side):
    pairs = SAMPLES[wildcards.sample]["registration"]["landmarks"]
    return pairs[wildcards.atlas][side]


def images_of_channels(wildcards):
    """Plans and summaries of the volumes of all channels, with bias and without."""
    kinds = ["fused"]
    if measured_volume(wildcards) != "fused":
        kinds.append("corrected_volume")
    files = {"corrected_volume": [], "corrected_volume_complete": []}
    for kind in kinds:
        for key, name in ((kind, "plan"), (f"{kind}_complete", "complete")):
            files[key] = of_channels(
                wildcards.sample, f"{kind}/{{channel}}/{name}.json"
            )
    return files


def every_channel(wildcards, name):
    channels = SAMPLES[wildcards.sample]["input"]["channels"]
    return [measured_file(wildcards, name, channel) for channel in channels]


# ------------------------------------------------------------------ atlases and transforms
ATLAS_SOURCES = ("template", "annotation", "ontology", "hemispheres")


def atlas_settings(wildcards):
    """Description of an atlas without its further images, which a rule of their own prepares."""
    return {k: v for k, v in atlas_setting(wildcards).items() if k != "images"}


def atlas_sources(wildcards):
    settings = atlas_setting(wildcards)
    return {key: settings[key] for key in ATLAS_SOURCES if settings[key]}


def files_of_atlas(atlas):
    names = {
        "template": "template.nrrd",
        "annotation": "annotation.nrrd",
        "hemispheres": "hemispheres.nrrd",
        "ontology": "ontology.tsv",
        "atlas": "atlas.json",
    }
    return {key: f"{RESULTS}/atlases/{atlas}/{name}" for key, name in names.items()}


def prepared_atlas(wildcards):
    return files_of_atlas(wildcards.atlas)


TRANSFORM_FILES = {
    "affine": "affine.txt",
    "forward": "forward.nrrd",
    "inverse": "inverse.nrrd",
    "transform": "transform.json",
}
REGISTRATION_FILES = TRANSFORM_FILES | {
    "velocity": "velocity.nrrd",
    "jacobian": "jacobian.nrrd",
    "to_atlas": "sample_to_atlas_displacement.nrrd",
    "to_sample": "atlas_to_sample_displacement.nrrd",
    "contrast": "contrast.nrrd",
    "basis": "contrast.json",
    "posteriors": "posteriors.nrrd",
    "predicted": "predicted.nrrd",
    "energy": "energy.tsv",
    "summary": "summary.json",
}


def registration_outputs():
    return {
        key: result(f"registration/{{atlas}}/{name}")
        for key, name in REGISTRATION_FILES.items()
    }


def files_of_transform(sample, atlas):
    return {
        key: f"{RESULTS}/{sample}/registration/{atlas}/{name}"
        for key, name in TRANSFORM_FILES.items()
    }


def transform_files(wildcards):
    return files_of_transform(wildcards.sample, wildcards.atlas)


def atlas_of_points(wildcards):
    return SAMPLES[wildcards.sample]["points"][wildcards.points]["atlas"]


def points_atlas(wildcards):
    return files_of_atlas(atlas_of_points(wildcards))


def points_transform(wildcards):
    return files_of_transform(wildcards.sample, atlas_of_points(wildcards))


# ------------------------------------------------------------------ report
def report_page(wildcards):
    """Digest of the page that reports are poured into."""
    page = Path(workflow.basedir) / "scripts/terareg/views/report.html.j2"
    return hashlib.sha256(page.read_bytes()).hexdigest()[:16]


def of_channels(sample, path):
    channels = SAMPLES[sample]["input"]["channels"]
    return expand(result(path), sample=sample, channel=channels)


def fiducials_of(wildcards, side):
    return SAMPLES[wildcards.sample]["fiducials"][wildcards.atlas][side]


def sample_labels(wildcards):
    """Entry of the configuration that describes the sample's own labels."""
    return SAMPLES[wildcards.sample]["sample_labels"][wildcards.atlas]


def of_atlases(sample, path):
    return expand(result(path), sample=sample, atlas=registration_atlases(sample))


def scored(sample):
    """Atlases with fiducials."""
    return [
        a for a in registration_atlases(sample) if a in SAMPLES[sample]["fiducials"]
    ]


def marked(sample):
    """Atlases whose registration landmarks take part in."""
    entries = SAMPLES[sample]["registration"]["landmarks"]
    return [a for a in registration_atlases(sample) if a in entries]


def labelled(sample):
    """Atlases that the sample's own labels are compared with."""
    entries = SAMPLES[sample]["sample_labels"]
    return [a for a in registration_atlases(sample) if a in entries]


def reported_files(sample):
    """Tables and pictures that the report shows."""
    bias = SAMPLES[sample]["intensity"]["bias"]["enabled"]
    per_channel = ["fused/{channel}/complete.json", "views/fused_{channel}.png"]
    names = ["views/neuroglancer.json"]
    if sample in TILED:
        per_channel += [
            "intensity/{channel}/flatfield.json",
            "views/flatfield_{channel}.png",
            "views/tile_means_{channel}.png",
        ]
        if destripes(sample):
            per_channel += ["intensity/{channel}/stripes.json"]
        if SAMPLES[sample]["intensity"]["destriping"] in ("rows", "columns"):
            per_channel += ["views/stripes_{channel}.png"]
        names += [
            "stitching/placement.json",
            "views/placement.png",
            "views/seams.png",
            "views/loop_closure.png",
        ]
    if bias:
        per_channel += [
            "bias/{channel}.json",
            "corrected_volume/{channel}/complete.json",
        ]
        per_channel += [
            "views/bias_{channel}.png",
            "views/corrected_volume_{channel}.png",
        ]
    figures = ("overlay", "prediction", "posteriors", "energy", "jacobian")
    per_atlas = [f"views/{name}_{{atlas}}.png" for name in figures]
    per_atlas += ["registration/{atlas}/preview.png", "registration/{atlas}/pose.json"]
    per_atlas += [
        "registration/{atlas}/summary.json",
        "registration/{atlas}/energy.tsv",
    ]
    per_atlas += ["regions/{atlas}.tsv", "views/regions_{atlas}.png"]
    files = expand(result("{name}"), sample=sample, name=names)
    for path in per_channel:
        files += of_channels(sample, path)
    for path in per_atlas:
        files += of_atlases(sample, path)
    for path in ("accuracy/{atlas}.tsv", "views/fiducials_{atlas}.png"):
        files += expand(result(path), sample=sample, atlas=scored(sample))
    files += expand(
        result("overlap/{atlas}.tsv"), sample=sample, atlas=labelled(sample)
    )
    return files


def raw_addresses(sample):
    """Where a sample's raw data lie: one folder of tiles, or an image for each channel."""
    source = SAMPLES[sample]["input"]
    if sample in IMPORTED:
        return {name: image_of(sample, name) for name in source["channels"]}
    return source["path"]


def provenance(wildcards):
    """What the report says about how a result came about."""
    complete = SAMPLES[wildcards.sample]
    text = json.dumps(complete, sort_keys=True, default=str)
    return {
        "terareg": VERSION,
        "config_hash": hashlib.sha256(text.encode()).hexdigest()[:12],
        "raw_data": raw_addresses(wildcards.sample),
        "store": complete["store"],
    }


def planned_work(wildcards):
    """What the report holds against the jobs' records."""
    sample = brain(wildcards.sample)
    return {
        "plan": [asdict(stage) for stage in runplan.make_plan(sample)],
        "jobs": workload.jobs_of_rules(sample),
        "raw_gb": sample.raw_gb,
    }


# ------------------------------------------------------------------ targets
def for_samples(files):
    """Input function: checked input and ``files(sample)`` for all samples, in one list."""

    def wanted(wildcards):
        checked = expand(result("inputs.json"), sample=SAMPLES)
        return checked + [path for sample in SAMPLES for path in files(sample)]

    return wanted


def tile_files(sample):
    if sample in IMPORTED:
        return []
    files = of_channels(sample, "intensity/{channel}/flatfield.tif")
    if destripes(sample):
        files += of_channels(sample, "intensity/{channel}/stripes.json")
    if SAMPLES[sample]["intensity"]["corrected_tiles"] != "stream":
        batches = range(planning.tile_batches(brain(sample)))
        channels = SAMPLES[sample]["input"]["channels"]
        files += expand(
            result("corrected/{channel}/batches/{batch}.json"),
            sample=sample,
            channel=channels,
            batch=batches,
        )
    return files


def stitching_files(sample):
    if sample in IMPORTED:
        return []
    names = ("xml_merging.xml", "placement.json", "render/tilespecs.json.gz")
    return expand(result("stitching/{name}"), sample=sample, name=names)


def fused_files(sample):
    return of_channels(sample, "fused/{channel}/complete.json")


def corrected_volume_files(sample):
    if not SAMPLES[sample]["intensity"]["bias"]["enabled"]:
        return []
    return of_channels(sample, "corrected_volume/{channel}/complete.json")


def registration_files(sample):
    files = of_atlases(sample, "registration/{atlas}/transform.json")
    if SAMPLES[sample]["registration"]["export"]:
        path = "registration/{atlas}/itk/sample_to_atlas_composite.tfm"
        files += of_atlases(sample, path)
    return files


def region_files(sample):
    config = SAMPLES[sample]
    files = of_atlases(sample, "regions/{atlas}.tsv")
    files += of_atlases(sample, "labels/{atlas}/meshes.json")
    files += expand(result("accuracy/{atlas}.tsv"), sample=sample, atlas=scored(sample))
    files += expand(
        result("overlap/{atlas}.tsv"), sample=sample, atlas=labelled(sample)
    )
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
    temporary = SAMPLES[sample]["intensity"]["corrected_tiles"] == "temporary"
    if temporary and sample in TILED:
        files += of_channels(sample, "corrected/{channel}/dropped.json")
    return files + [result("report.html").format(sample=sample)]


def verified_files(sample):
    """Records of having read every volume back."""
    name = "complete.json"
    ends = (f for f in all_files(sample) if Path(f).name == name)
    return [f.removesuffix(name) + "verified.json" for f in ends]


# ------------------------------------------------------------------ removal
def places_of(sample):
    """Where a sample's files lie: the results that Snakemake tracks, and the store."""
    root = RESULTS
    if remote_storage():
        root = f"{workflow.storage_settings.default_storage_prefix}/{RESULTS}"
    return [Store(root).child(sample), Store(SAMPLES[sample]["store"]).child(sample)]


def users_files(sample):
    """Addresses of everything that a sample is made of."""
    config = SAMPLES[sample]
    files = own_files(SimpleNamespace(sample=sample))
    for atlas in config["atlases"].values():
        files += [atlas[k] for k in ATLAS_SOURCES if atlas[k]]
        files += atlas["images"].values()
    if sample in IMPORTED:
        return files + list(raw_addresses(sample).values())
    names = layout(sample).raw_keys()
    return files + [f"{config['input']['path']}/{name}" for name in names]


def remove_files(find, log):
    """List what ``find`` finds of every sample; remove it of the sample that is confirmed."""
    texts = []
    try:
        # a sample may be made of another one's results
        own = [address for sample in SAMPLES for address in users_files(sample)]
        for sample, config in SAMPLES.items():
            found = find(places_of(sample))
            removal.protect(found, own)
            confirmed = config["confirm_removal"] == sample
            if confirmed:
                removal.remove(found)
            how = f"--config confirm_removal={sample}"
            text = removal.removal_text(found, confirmed, how)
            texts.append(f"sample {sample}:\n{text}")
    except TeraregError as error:
        raise WorkflowError(str(error))
    Path(log).write_text("\n".join(texts))
    print("\n".join(texts), flush=True)

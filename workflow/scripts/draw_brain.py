"""Draw the borders of the regions on the sample at image resolution, and zooms of the worst."""

from terareg.core.frames import Frame
from terareg.execution.job import run_job
from terareg.storage.records import read_json, read_table
from terareg.storage.store import Store, write_atomic
from terareg.views.customary import views
from terareg.views.figures import brain
from terareg.views.planes import labelled_centre_um, plane_frame, read_plane
from terareg.views.worst import SHOWN, zoom_title, zoom_um
from terareg.volumes.reader import Volume

PIXELS = 1400  # along the longest side of a plane
ZOOMED = 360  # along the side of a window


def main() -> None:
    sample, atlas = snakemake.wildcards.sample, snakemake.wildcards.atlas
    store = Store(snakemake.params.store)
    image = Volume(store, f"{sample}/{snakemake.params.source}")
    labels = Volume(store, f"{sample}/labels/{atlas}")
    limits = read_json(snakemake.input.complete)["window"]
    finest = min(image.frame.spacing_um)

    def pair(plane: Frame):
        return read_plane(image, plane), read_plane(labels, plane)

    pixel_um = max(max(image.frame.extent_um) / PIXELS, finest)
    centre_um = labelled_centre_um(labels)
    coronal, *_ = shown = views(image.frame.orientation)
    for view in shown:
        plane = plane_frame(image.frame, view.axis, centre_um, pixel_um)
        picture = brain.borders(*pair(plane), plane, limits)
        write_atomic(snakemake.output[view.name], picture)
    windows = []
    for number, row in enumerate(read_table(snakemake.input.quality)[:SHOWN], 1):
        place_um, half_um = zoom_um(row, image.frame)
        pixel_um = max(2 * half_um / ZOOMED, finest)
        plane = plane_frame(image.frame, coronal.axis, place_um, pixel_um, half_um)
        title = zoom_title(number, row)
        windows.append(brain.Zoom(title, *pair(plane), plane, int(row["id"])))
    write_atomic(snakemake.output.worst, brain.zooms(windows, limits))


run_job(snakemake, main)

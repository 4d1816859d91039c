"""Finds the objects on the picture that a run is about, in one task: what stands out from its background, piece by piece.

Otsu's threshold parts bright from dark; the smaller part is the foreground; its connected pieces are the objects. No model is
needed, so this runs anywhere; put a detector of your own into `find` for more.
"""

import io
import os
from datetime import timedelta

try:  # Airflow 3
    from airflow.sdk import dag, task
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task

import bulkhead_kafka

RESULTS = os.environ.get("BULKHEAD_RESULTS", "images.results")
WORKING_SIDE = 512  # pixels; larger pictures are scaled down for the search, boxes are scaled back
OBJECTS_MAX = 100
AREA_MIN = 0.0005  # of the picture: less is noise


def threshold(grey):
    """Otsu's: the level that parts the histogram with the largest variance between its two sides; None where all is one."""
    import numpy

    counts = numpy.bincount(grey.ravel(), minlength=256).astype(float)
    below = numpy.cumsum(counts)
    weighted = numpy.cumsum(counts * numpy.arange(256))
    above = below[-1] - below
    with numpy.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (weighted / below - (weighted[-1] - weighted) / above) ** 2
    between = numpy.nan_to_num(between)
    return int(between.argmax()) if between.max() > 0 else None


def pieces(mask):
    """Connected pieces (8 neighbours) of a mask as [left, top, right, bottom, area]: each row's runs, joined where they touch."""
    import numpy

    parent, boxes = [], []

    def root(at):
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    above = []
    for y, row in enumerate(mask):
        edges = numpy.flatnonzero(numpy.diff(numpy.concatenate(([0], row.astype(numpy.int8), [0]))))
        runs = []
        for left, right in zip(edges[::2].tolist(), edges[1::2].tolist()):
            own = len(parent)
            parent.append(own)
            boxes.append([left, y, right, y + 1, right - left])
            for other_left, other_right, other in above:
                if other_left <= right and other_right >= left:
                    a, b = sorted((root(own), root(other)))
                    if a != b:
                        parent[b] = a
                        for i, choose in enumerate((min, min, max, max)):
                            boxes[a][i] = choose(boxes[a][i], boxes[b][i])
                        boxes[a][4] += boxes[b][4]
            runs.append((left, right, own))
        above = runs
    return [boxes[at] for at in range(len(parent)) if root(at) == at]


def find(picture):
    """The objects on a picture's bytes, the largest first. Boxes are [left, top, right, bottom] in the picture's pixels."""
    import numpy
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(picture))
        image.load()
    except (UnidentifiedImageError, OSError) as why:
        raise bulkhead_kafka.Refused(f"no picture: {why}") from why
    width, height = image.size
    small = image.convert("L")
    small.thumbnail((WORKING_SIDE, WORKING_SIDE))
    grey = numpy.asarray(small)
    level = threshold(grey)
    found = []
    if level is not None:
        mask = grey > level
        if mask.mean() > 0.5:
            mask = ~mask
        across, down = width / small.width, height / small.height
        for left, top, right, bottom, area in pieces(mask):
            share = area / grey.size
            if share >= AREA_MIN:
                box = [round(left * across), round(top * down), round(right * across), round(bottom * down)]
                found.append({"label": "object", "box": box, "area": round(share, 5)})
    found.sort(key=lambda one: -one["area"])
    return {"width": width, "height": height, "objects": found[:OBJECTS_MAX]}


@dag(dag_id="object_detection_single_task", schedule=None, catchup=False, max_active_runs=16, tags=["bulkhead"])
def object_detection_single_task():
    @task(
        retries=2,
        retry_delay=timedelta(seconds=2),
        on_failure_callback=bulkhead_kafka.tell_failure(RESULTS),
    )
    def detect(dag_run=None):
        conf = dag_run.conf
        picture, headers = bulkhead_kafka.read(conf)
        try:
            found = find(picture)
        except bulkhead_kafka.Refused as why:
            errors = {"code": "undecodable_image", "message": why, "class": "poison", "stage": "airflow"}
            bulkhead_kafka.tell(RESULTS, conf, None, headers, errors)
            return
        bulkhead_kafka.tell(RESULTS, conf, {"jobId": conf["job_id"], "dag_id": dag_run.dag_id, **found}, headers)

    detect()


object_detection_single_task()

"""The panels of deploy/grafana-dashboard.json without Grafana: every query answered by a Prometheus, drawn into one PNG.

Owns what stands in for Grafana's variables. A query that Prometheus refuses, or that has no data, is an error with the panel's name.
"""

import json
import math
import re
import time
import urllib.parse

import matplotlib
from PIL import Image

import box

matplotlib.use("Agg")
import matplotlib.pyplot as pyplot  # noqa: E402

DASHBOARD = box.ROOT / "deploy/grafana-dashboard.json"
VARIABLES = {"$job": "clipserve", "$__rate_interval": "30s"}
STEP = 2


def ask(api, expression, seconds):
    """The series of an expression over the last seconds, as (labels, times, values)."""
    end = time.time()
    parameters = urllib.parse.urlencode({"query": expression, "start": end - seconds, "end": end, "step": STEP})
    status, body = box.ask(f"{api}query_range?{parameters}")
    assert status == 200, (expression, body)
    for row in json.loads(body)["data"]["result"]:
        times, values = zip(*((at - end, float(value)) for at, value in row["values"]))
        yield row["metric"], times, values


def draw(api, seconds, file):
    """Asks every query of the dashboard, and draws the graphs among its panels."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    graphs = [panel for panel in panels if panel["type"] == "timeseries"]
    figure, axes = pyplot.subplots(math.ceil(len(graphs) / 3), 3, figsize=(15, 14), layout="constrained")
    places = dict(zip((panel["title"] for panel in graphs), axes.flat))
    for panel in panels:
        found = 0
        for target in panel.get("targets", []):
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            for labels, times, values in ask(api, expression, seconds):
                found += 1
                if panel in graphs:
                    legend = re.sub(r"{{(\w+)}}", lambda label: labels.get(label[1], ""), target["legendFormat"])
                    # What never happened needs no name.
                    places[panel["title"]].plot(times, values, label=legend if any(values) else None, linewidth=1)
        assert found or not panel.get("targets"), f"{panel['title']}: no data"
    for panel in graphs:
        place, unit = places[panel["title"]], panel["fieldConfig"]["defaults"].get("unit", "none")
        place.set_title(panel["title"] + ("" if unit == "none" else f" ({unit})"), fontsize=9)
        place.tick_params(labelsize=7)
        place.set_ylim(bottom=0, top=max(place.get_ylim()[1] * 1.05, 1e-9))
        if place.get_legend_handles_labels()[0]:
            place.legend(fontsize=6, loc="lower left", ncols=2)
    for place in axes.flat[len(graphs):]:
        place.set_axis_off()
    figure.savefig(file, dpi=72)
    # A quarter of the bytes.
    Image.open(file).convert("RGB").quantize(32, dither=Image.Dither.NONE).save(file, optimize=True)

"""Draw every shipped circuit: `circuits/<name>/circuit.svg`, exact edge effects of the main model's wires.

Run from the repository: `python tools/draw_circuits.py [NAME ...]`. Needs the `dev` extra and a Chromium.
"""

import shutil
import sys
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

import mechinterp as mi

SIZE = {"width": 760}
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]  # fmt: skip


def figure(name: str):
    """The main model's wires, averaged over all of its task's corruptions."""
    circuit = mi.load_circuit(name)
    valued = circuit.model.config.outputs == "values"
    metric = "mse" if valued else "logit_diff"
    settings = dict(metric=metric, corruption="all", inputs=circuit.circuit.inputs, examples=256)
    effects = mi.measure("edge_effects", **settings)(circuit.model, circuit.task, 0)
    return mi.plots.circuit_graph(effects, circuit.circuit, unit="squared distance" if valued else "nats")


def main(names: list[str]) -> None:
    """Draw them, one page after the other."""
    torch.set_num_threads(1)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page()
        for name in names:
            drawn = figure(name)
            page.set_content(drawn.to_html(include_plotlyjs=True, full_html=True, div_id="circuit"))
            options = {"format": "svg", **SIZE, "height": int(drawn.layout.height)}
            svg = page.evaluate(
                "options => Plotly.toImage('circuit', options).then(url => decodeURIComponent(url.split(',')[1]))",
                options,
            )
            path = mi.load_circuit(name).path / "circuit.svg"
            Path(path).write_text(svg + "\n", encoding="utf-8")
            print(f"{path}: {len(svg) // 1024} KB")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:] or mi.claims.circuit_names())

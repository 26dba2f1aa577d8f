"""The page: sections and figures put into one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mechinterp._version import __version__
from mechinterp.plots import style
from mechinterp.plots.tables import COLUMNS


@dataclass(frozen=True, eq=False)
class Figure:
    """A plotly figure with the text around it.

    Args:
        name: Unique on the page; the id of the plot's element.
        plot: What to draw.
        how: One line on how to read it.
        alt: What it shows, in words.
    """

    name: str
    plot: go.Figure
    how: str
    alt: str

    @property
    def html(self) -> str:
        """The plot's element with its data and a script that draws it; plotly.js itself comes once, with the page."""
        config = {"responsive": True, "displayModeBar": False}
        return self.plot.to_html(
            full_html=False, include_plotlyjs=False, auto_play=False, config=config, div_id=self.name
        )

    @property
    def moves(self) -> bool:
        """Whether it has a slider."""
        return bool(self.plot.layout.sliders)


@dataclass(frozen=True, eq=False)
class Body:
    """The content of a section.

    Args:
        lead: What it answers, one or two sentences.
        figures: Drawn in order.
        rows: A table of findings: (cells, remark) of each row.
        lists: Heading -> sentences; a heading with one sentence is a paragraph.
        settings: Group -> name -> value, drawn as small tables.
        notes: What is missing, or what a reader must know.
    """

    lead: str = ""
    figures: Sequence[Figure] = ()
    rows: Sequence[tuple[Sequence[str], str]] = ()
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page.

    Args:
        name: Its anchor.
        title: Its heading.
        body: Its content.
    """

    name: str
    title: str
    body: Body


def render(title: str, verdict: str, source: str, sections: Sequence[Section]) -> str:
    """The whole page; every word that comes from outside is escaped.

    Args:
        title: Heading and window title.
        verdict: The outcome in one sentence.
        source: Where the numbers come from: the small line above the title.
        sections: In order.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    engine = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return engine.get_template("page.html").render(
        title=title,
        verdict=verdict,
        source=source,
        sections=sections,
        columns=[name[:1].upper() + name[1:] for name in COLUMNS],
        style=style,
        plotly=get_plotlyjs(),
        version=__version__,
    )

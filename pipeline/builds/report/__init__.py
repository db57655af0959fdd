"""report.html: one page about one finished build, readable without a network.

Everything in it comes from the build's directory: the manifest, the inventory, what the steps
left as evidence, the builds before it and the registrations. `facts` reads it into small records,
`page` puts these into the templates of templates/report.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.builds.workspace import REPORT as FILE
from pipeline.host.files import write_whole


def write_report(directory: Path) -> Path:
    """Write report.html of the finished build in `directory` and return its path.

    InputError when there is no finished build there.
    """
    # Imported where they are needed: the time line alone does without the templates.
    from pipeline.builds.report.facts import read_facts
    from pipeline.builds.report.page import render

    path = directory / FILE
    write_whole(path, render(read_facts(directory)))
    return path

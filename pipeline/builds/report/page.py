"""The page's sections."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from string import Template

from pipeline.builds.compare import Build, Comparison
from pipeline.builds.manifest import Manifest
from pipeline.builds.report import changes, timeline, treemap
from pipeline.builds.report.evidence import Console, Evidence
from pipeline.builds.report.markup import Markup, join, table, tag
from pipeline.core import settings
from pipeline.core.image import Registration
from pipeline.core.text import human_bytes, human_seconds
from pipeline.guest.inventory import Inventory

_TEMPLATES = settings.PROJECT / "templates" / "report"
_TOP = 15  # rows of a table of the largest
_WIDE = 26  # characters that fit beside a size and its bar
_FOLDED = 60  # lines of a diff; longer ones are folded
_NOTHING = Markup("")


@dataclass(frozen=True)
class Facts:
    """What the page shows; None or empty where the build has none of it."""

    build: Build
    comparison: Comparison | None = None
    registrations: tuple[Registration, ...] = ()
    install: Evidence = field(default_factory=Evidence)
    verify: Evidence = field(default_factory=Evidence)
    commands: Console | None = None
    answers: Console | None = None


def render(facts: Facts) -> str:
    """The whole page."""
    manifest = facts.build.manifest
    style, script = (_TEMPLATES.joinpath(name).read_text() for name in ("report.css", "report.js"))
    sections = [
        ("Origin", _origin(facts)),
        ("Time", timeline.draw(manifest.stages)),
        ("Content", _content(facts.build)),
        ("Boot check", _boot_check(facts)),
        ("Install", _evidence(facts.install)),
        ("Files", _files(manifest)),
        ("Edits", _edits(manifest)),
        ("Changes", changes.draw(facts.comparison)),
        ("Clouds", _clouds(facts.registrations)),
        ("Commands", _log(facts.commands) if facts.commands else _NOTHING),
    ]
    shown = [(name, body) for name, body in sections if body]
    return Template(_TEMPLATES.joinpath("report.html").read_text()).substitute(
        title=join(f"{manifest.name}, {manifest.created}"),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        header=_header(manifest, facts.build.inventory),
        navigation=join(*(tag("a", name, href=f"#{_anchor(name)}") for name, _ in shown)),
        sections=join(
            *(
                tag("section", tag("h2", name), body, id=_anchor(name), aria_label=name)
                for name, body in shown
            )
        ),
        footer=join(f"Written by image-pipeline {manifest.product} from manifest.json"),
    )


def _hash(text: str) -> str:
    """A source expression of Content Security Policy Level 3."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _header(manifest: Manifest, listing: Inventory | None) -> Markup:
    checked = manifest.verification
    if checked is None:
        verdict = tag("span", "not boot-checked", class_="verdict skipped")
    elif checked.passed:
        verdict = tag("span", "boots", class_="verdict passed")
    else:
        verdict = tag("span", "boot check failed", class_="verdict failed")
    figures = [
        ("Kernel", manifest.boot.kernel_version),
        ("Root file system", f"{human_bytes(manifest.root.bytes)} {manifest.root.filesystem}"),
        ("On disk", human_bytes(manifest.machine.allocated)),
        ("Packages", f"{len(listing.packages):,}" if listing and listing.packages else None),
        ("Files", f"{len(listing.entries):,}" if listing else None),
        (
            "SSH after",
            f"{checked.seconds_to_ssh:.1f} s" if checked and checked.seconds_to_ssh else None,
        ),
        ("Took", human_seconds(timeline.elapsed(manifest.stages))),
        ("Guests ran with", manifest.acceleration),
    ]
    return join(
        tag("h1", manifest.name, " ", verdict),
        tag(
            "p",
            f"{manifest.recipe.description} · built ",
            tag("time", manifest.created, datetime=manifest.created),
            class_="lead",
        ),
        tag(
            "dl",
            *(tag("div", tag("dt", name), tag("dd", value)) for name, value in figures if value),
            class_="figures",
        ),
    )


def _origin(facts: Facts) -> Markup:
    manifest = facts.build.manifest
    source, root, boot = manifest.source, manifest.root, manifest.boot
    steps = [
        (
            "Recipe",
            manifest.recipe.name,
            manifest.recipe.description,
            f"inputs {manifest.recipe.digest[:12]}",
        ),
        (
            "Installed disk" if source.kind == "install" else "Given disk",
            source.file,
            source.volume,
            f"{human_bytes(source.copied)} by {source.method}",
        ),
        (
            "Root filesystem",
            f"{root.filesystem}, {root.label}",
            human_bytes(root.bytes),
            root.uuid,
        ),
        ("Image set", boot.architecture, f"kernel {boot.kernel_version}", boot.chosen),
    ]
    chain = tag(
        "ol",
        *(
            tag(
                "li",
                tag("small", role),
                tag("strong", name),
                *(tag("span", line) for line in lines if line),
            )
            for role, name, *lines in steps
        ),
        class_="chain",
    )
    rows = [("Kernel command line", boot.command_line), *sorted(manifest.properties.items())]
    facts_table = tag(
        "table",
        *(tag("tr", tag("th", name, scope="row"), tag("td", tag("code", v))) for name, v in rows),
        class_="pairs",
    )
    answers = _log(facts.answers, "Answers given to the installer") if facts.answers else None
    return join(chain, facts_table, answers)


def _content(build: Build) -> Markup:
    listing = build.inventory
    if listing is None:
        return tag("p", "No inventory was kept of this build.", class_="note")
    views = []
    if not listing.unknown:
        views.append(("By package", treemap.by_package(listing)))
    views.append(("By directory", treemap.by_directory(listing)))
    # A tab is a radio button: they work without the script, and print shows all views.
    tabs = [
        tag(
            "div",
            tag("h3", name),
            treemap.draw(root, f"Treemap of the image {name.lower()}"),
            class_="view",
        )
        for name, root in views
    ]
    largest = sorted(listing.entries, key=lambda e: (-e.allocated, e.path))[:_TOP]
    tables = [
        _largest("Largest directories", [(n.path, n.bytes) for n in treemap.notable(root, _TOP)])
        if name == "By directory"
        else _largest("Largest packages", [(n.name, n.bytes) for n in root.children[:_TOP]])
        for name, root in views
    ] + [_largest("Largest files", [(e.path, e.allocated) for e in largest])]
    note = (
        f"{human_bytes(listing.used)} of {human_bytes(listing.size)} are in use."
        " Areas are allocated bytes; a click on a group looks closer, Escape steps back."
    )
    unknown = tag("p", f"Packages: {listing.unknown}", class_="note") if listing.unknown else None
    return join(
        tag("p", note, class_="note"),
        unknown,
        tag("div", *tabs, class_="views"),
        tag("div", *tables, class_="columns"),
    )


def _largest(name: str, rows: Sequence[tuple[str, int]]) -> Markup:
    most = max((size for _, size in rows), default=0) or 1
    return tag(
        "table",
        tag("caption", name),
        *(
            tag(
                "tr",
                tag("td", _end(label), class_="name", title=label),
                tag("td", human_bytes(size), class_="number"),
                tag("td", tag("meter", value=str(size), max=str(most)), aria_hidden="true"),
            )
            for label, size in rows
        ),
        class_="largest",
    )


def _end(path: str) -> str:
    """A path's end, which tells more than its beginning."""
    short = len(path) <= _WIDE or not path.startswith("/")
    return path if short else f"…{path[1 - _WIDE :]}"


def _boot_check(facts: Facts) -> Markup:
    checked = facts.build.manifest.verification
    if checked is None:
        return tag("p", "The boot check was skipped.", class_="note")
    rows = []
    for assertion in checked.assertions:
        state = "passed" if assertion.passed else "failed" if assertion.reached else "skipped"
        mark = {"passed": "✓", "failed": "✗", "skipped": "–"}[state]
        rows.append(
            tag(
                "tr",
                tag("td", mark, class_=f"mark {state}", aria_label=state),
                tag("td", assertion.name),
                tag("td", assertion.detail if assertion.reached else "not reached"),
            )
        )
    lines = (
        tag("pre", "\n".join(checked.console_lines), class_="log")
        if checked.console_lines
        else None
    )
    boots = ", ".join(
        f"{name} {human_seconds(seconds)}" for name, seconds in checked.boot_seconds.items()
    )
    return join(
        lines,
        tag("table", *rows, class_="assertions"),
        tag("p", f"Boots: {boots}", class_="note") if boots else None,
        _evidence(facts.verify),
    )


def _evidence(evidence: Evidence) -> Markup:
    pictures = [
        tag(
            "figure",
            tag("img", src=picture.uri, alt=f"The guest's screen: {picture.name}"),
            tag("figcaption", picture.name),
        )
        for picture in evidence.pictures
    ]
    return join(
        tag("div", *pictures, class_="pictures") if pictures else None,
        *(_log(console) for console in evidence.consoles),
    )


def _log(console: Console, title: str = "") -> Markup:
    lines = console.text.count("\n") + 1
    skipped = f", the first {human_bytes(console.skipped)} left out" if console.skipped else ""
    return tag(
        "details",
        tag(
            "summary",
            title or console.name,
            " ",
            tag("small", f"{lines:,} lines{skipped}"),
        ),
        tag("pre", console.text, class_="log", tabindex="0"),
    )


def _files(manifest: Manifest) -> Markup:
    rows = [
        tag(
            "tr",
            tag("td", role),
            tag("td", tag("a", record.file, href=_link(record.file))),
            tag("td", human_bytes(record.bytes), class_="number"),
            tag("td", human_bytes(record.allocated), class_="number"),
            tag("td", tag("code", record.sha256, class_="hash")),
        )
        for role in ("machine", "kernel", "ramdisk", "disk")
        if (record := getattr(manifest, role)) is not None
    ]
    head = ("Role", "File", "Size", "On disk", "sha256")
    return table(head, rows, "files")


def _link(name: str) -> str:
    # A relative reference: "./" keeps a name with a colon from being read as a scheme.
    from urllib.parse import quote

    return f"./{quote(name)}"


def _edits(manifest: Manifest) -> Markup:
    record = manifest.customization
    edits = []
    for edit in record.edits:
        if "\n" in edit.change:
            edits.append(
                tag(
                    "details",
                    tag("summary", tag("code", edit.path)),
                    tag("pre", *_diff(edit.change), class_="diff"),
                    open="" if edit.change.count("\n") <= _FOLDED else None,
                )
            )
        else:
            edits.append(tag("p", tag("code", edit.path), " ", edit.change))
    labels = {
        "none": "the guest has no policy",
        "labelled": "labelled with the guest's own policy",
        "first-boot": "to be labelled at the first boot",
    }
    pairs = [
        ("Edited with", record.backend),
        ("SELinux", labels.get(record.relabel, record.relabel)),
        ("Mounts kept", "\n".join(record.kept_mounts)),
    ]
    return join(
        *(tag("p", warning, class_="warning") for warning in record.warnings),
        tag(
            "table",
            *(tag("tr", tag("th", n, scope="row"), tag("td", v)) for n, v in pairs if v),
            class_="pairs",
        ),
        *edits,
        tag(
            "details",
            tag("summary", "Removed ", tag("small", f"{len(record.removed)} paths")),
            tag("pre", "\n".join(record.removed), class_="log"),
        )
        if record.removed
        else None,
    )


def _diff(change: str) -> Iterator[Markup]:
    for line in change.splitlines():
        kind = {"+": "added", "-": "removed", "@": "place"}.get(line[:1])
        if line.startswith(("+++", "---")):
            kind = "place"
        yield tag("span", line, class_=kind)


def _clouds(known: Sequence[Registration]) -> Markup:
    if not known:
        return tag("p", "Not registered anywhere by this checkout.", class_="note")
    rows = [
        tag(
            "tr",
            tag("td", entry.cloud),
            tag("td", entry.generation),
            *(
                tag("td", tag("code", identity))
                for identity in (entry.machine_id, entry.kernel_id, entry.ramdisk_id)
            ),
        )
        for entry in known
    ]
    return table(("Cloud", "Generation", "AMI", "AKI", "ARI"), rows, "clouds")

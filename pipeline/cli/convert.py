"""One image in another format: convert."""

from __future__ import annotations

from invoke.context import Context

from pipeline.cli import command, help_for, whole_number
from pipeline.cli.session import session


@command(
    positional=["source"],
    help=help_for(
        "json",
        "quiet",
        "verbose",
        "debug",
        "dry_run",
        source="a finished build, an ami id of the local catalogue, a file, or a URL with --sha256",
        to="raw, qcow2, vmdk, vdi, vhd, vhdx, ova, tar (disk.raw for Compute Engine) or root (a"
        " tar.gz of the root file system)",
        out="the file that is written; by default the source's name in the current directory",
        **{
            "for": "openstack, ec2-import, azure, gce, vmware, virtualbox, hyperv, xen or libvirt:"
            " the format, its options and the size that it takes",
        },
        variant="of vmdk: stream or sparse; of vhd: dynamic or fixed",
        compression="of qcow2: zstd, or zlib for readers before 2020",
        pack="compress the whole file too: gzip, xz or zstd",
        sha256="digest that the source must have",
        cpus="processors of the machine in an ova; 1 by default",
        memory="MiB of memory of the machine in an ova; 1024 by default",
        most="GiB that a compressed source may be unpacked to; 256 by default",
        root="with --to root: which volume it is, VG/LV or a partition number",
    ),
)
def convert(
    c: Context,
    source: str,
    to: str = "",
    out: str = "",
    for_: str = "",
    variant: str = "",
    compression: str = "",
    pack: str = "",
    sha256: str = "",
    cpus: str = "",
    memory: str = "",
    most: str = "",
    root: str = "",
    dry_run: bool = False,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    debug: bool = False,
) -> None:
    """Write a disk in another format, compare it with the source, and pack it if asked."""
    with session(quiet=quiet, as_json=json, debug=debug) as view:
        from pipeline.workflows import convert as workflow

        bound = whole_number("--most", most, "GiB", least=1)
        wish = workflow.Wish(
            source=source,
            form=to,
            consumer=for_,
            out=out,
            variant=variant,
            compression=compression,
            pack=pack,
            sha256=sha256,
            cpus=whole_number("--cpus", cpus, "processors", least=1),
            memory_mib=whole_number("--memory", memory, "MiB", least=64),
            root=root,
            **({"most": bound << 30} if bound else {}),
        )
        if dry_run:
            planned = workflow.plan(wish, view.progress, view.secrets)
            view.result({"plan": planned}, planned)
            return
        echo = view.progress.say if verbose else None
        done = workflow.run(wish, view.progress, view.secrets, echo=echo)
        view.result(workflow.record(done), workflow.lines(done))

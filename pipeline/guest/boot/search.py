"""Where a guest's kernels and ramdisks lie: by its boot loader's word, else by name and place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.core.errors import GuestError
from pipeline.core.versions import version_key
from pipeline.guest.access.paths import base, join, parent, shown
from pipeline.guest.access.protocol import Guest
from pipeline.guest.boot.defaults import Default, Images, is_directory, is_file, tops
from pipeline.guest.boot.kernel_names import (
    Choice,
    choose_kernel,
    is_unfit,
    kernel_version,
    ramdisk_names,
    unversioned_kernels,
    unversioned_ramdisks,
)
from pipeline.guest.boot.loader_config import Entry, candidates

MODULES = ("/lib/modules", "/usr/lib/modules")
"""Where a guest has the modules of its kernels."""
_MAX_RAMDISKS = 16  # of one entry
_MAX_DIRECTORIES = 100  # at the top of a boot partition
_BESIDE_MODULES = ("initramfs.img", "initrd", "initrd.img")
_KERNEL_INSTALL = ("linux", "initrd", "initrd.img")


@dataclass(frozen=True)
class FoundKernel:
    """A kernel that was found. path: real; of the image where it is part of one.

    version: by its name, "" if that does not tell. hint: by what somebody wrote down, which need
    not be the kernel's. ramdisks: what belongs to it for certain.
    """

    path: str
    version: str
    because: str
    hint: str = ""
    ramdisks: tuple[str, ...] = ()
    in_image: bool = False


class Search:
    """One guest with all that it boots from; esp: where its EFI system partition is mounted."""

    def __init__(self, guest: Guest, esp: str, images: Images) -> None:
        self.guest, self.images = guest, images
        self._esp = esp
        self._tops = tops(esp)

    def kernel(self, default: Default, warnings: list[str]) -> FoundKernel:
        """The boot loader's default, else the newest that is fit, wherever it lies."""
        entry, source = default.entry, default.source
        if entry is not None:
            found = self._of_entry(entry, f"the default of {source}")
            if found is None:
                there = self._first(candidates(entry.kernel, entry.top))
                what = "no kernel, nor an image with one" if there else "not there"
                warnings.append(f"{source} boots {shown(entry.kernel)}, which is {what}")
            elif any(map(is_unfit, (entry.kernel, entry.id, base(found.path)))):
                warnings.append(
                    f"{source} boots {shown(entry.kernel)}, a rescue or debugging kernel"
                )
            else:
                return found
        for kernel in self._kernels(default.others):
            return kernel
        raise self._no_kernel()

    def _of_entry(self, entry: Entry, because: str) -> FoundKernel | None:
        """The kernel that an entry boots; None if it is not there."""
        path = self._first(candidates(entry.kernel, entry.top))
        if path is None:
            return None
        real = self.guest.resolve(path)
        if entry.uki:
            image = self.images.get(real)
            if image is None:
                return None
            return FoundKernel(real, "", because, image.kernel_version, (real,), in_image=True)
        named = [self._first(candidates(path, entry.top)) for path in entry.ramdisks]
        ramdisks = tuple(self.guest.resolve(path) for path in named if path)[:_MAX_RAMDISKS]
        return FoundKernel(real, kernel_version(base(real)), because, entry.version, ramdisks)

    def _kernels(self, others: Sequence[Entry]) -> Iterator[FoundKernel]:
        """Kernels that no configuration makes the default, the most likely first."""
        for top in self._tops:
            choice = choose_kernel(self._files(top))
            if choice is not None:
                yield self._chosen(top, choice)
        for entry in others:
            found = self._of_entry(entry, f"the next entry that is there, {shown(entry.id)}")
            if found and not any(map(is_unfit, (entry.kernel, entry.id, base(found.path)))):
                yield found
        for top in self._tops:
            for directory, version in self._installed(top):
                path = self.guest.resolve(f"{directory}/linux")
                yield FoundKernel(path, "", "the newest that kernel-install left", version)
        for top in self._tops:
            for name in unversioned_kernels(self._files(top))[:1]:
                yield FoundKernel(self.guest.resolve(f"{top}/{name}"), "", f"the only one in {top}")
        for directory in MODULES:
            for version in self._versions(directory):
                path = f"{directory}/{version}/vmlinuz"
                if is_file(self.guest, path) and not is_unfit(version):
                    because = f"the newest in {directory}, as /boot has none"
                    yield FoundKernel(self.guest.resolve(path), "", because, version)

    def _chosen(self, top: str, choice: Choice) -> FoundKernel:
        return FoundKernel(
            self.guest.resolve(f"{top}/{choice.name}"), choice.version, choice.because
        )

    def _files(self, directory: str) -> list[str]:
        if not is_directory(self.guest, directory):
            return []
        names = self.guest.names(directory)
        return [name for name in names if is_file(self.guest, join(directory, name))]

    def _directories(self, directory: str) -> list[str]:
        if not is_directory(self.guest, directory):
            return []
        names = self.guest.names(directory)[:_MAX_DIRECTORIES]
        return [name for name in names if is_directory(self.guest, join(directory, name))]

    def _versions(self, directory: str) -> list[str]:
        """Subdirectories named for kernel versions, the newest first."""
        return sorted(self._directories(directory), key=version_key, reverse=True)

    def _installed(self, top: str) -> Iterator[tuple[str, str]]:
        """(TOKEN/VERSION, version) where kernel-install put a kernel, the newest first."""
        found = []
        for token in self._directories(top):
            for version in self._directories(join(top, token)):
                directory = f"{top}/{token}/{version}"
                if is_file(self.guest, f"{directory}/linux") and not is_unfit(version):
                    found.append((directory, version))
        yield from sorted(found, key=lambda pair: version_key(pair[1]), reverse=True)

    def ramdisk(self, kernel: FoundKernel, version: str, modules: str) -> Iterable[str]:
        """The ramdisk that a version leads to, if there is one."""
        directory = parent(kernel.path)
        names = (*ramdisk_names(version), *unversioned_ramdisks(base(kernel.path)))
        paths = [f"{directory}/{name}" for name in _KERNEL_INSTALL[1:]]
        if base(kernel.path) != _KERNEL_INSTALL[0]:
            paths = [f"{top}/{name}" for top in (directory, *self._tops) for name in names]
        paths += [f"{modules}/{name}" for name in _BESIDE_MODULES]
        paths += [
            f"{top}/{token}/{version}/{name}"
            for top in self._tops
            for token in self._directories(top)
            for name in _KERNEL_INSTALL[1:]
        ]
        package = f"{modules}/pkgbase"  # Arch's; its ramdisks are named for the package
        if is_file(self.guest, package):
            owner = self.guest.read(package, 4096).decode(errors="replace").strip()
            paths += [f"/boot/{name}" for name in unversioned_ramdisks(f"vmlinuz-{owner}")]
        found = self._first(paths)
        if found is not None:
            return (self.guest.resolve(found),)
        for path in self._image_paths():
            image = self.images.get(path)
            if image and image.kernel_version == version and ".initrd" in image.sections:
                return (self.guest.resolve(path),)
        return ()

    def _image_paths(self) -> list[str]:
        return [
            f"{top}/EFI/Linux/{name}"
            for top in self._tops
            for name in self._files(f"{top}/EFI/Linux")
        ]

    def _first(self, paths: Iterable[str]) -> str | None:
        return next((path for path in paths if is_file(self.guest, path)), None)

    def _no_kernel(self) -> GuestError:
        """Where was looked, and what was there."""
        places = []
        for top in self._tops:
            names = self._files(top)
            if any("vmlinuz" in name for name in names):
                places.append(f"{top} has none but rescue kernels: {', '.join(names[:20])}")
            else:
                there = self.guest.names(top)[:20] if is_directory(self.guest, top) else []
                places.append(f"{top} has {', '.join(there) or 'nothing'}")
        versions = self._versions(MODULES[0]) or self._versions(MODULES[1])
        if versions:
            places.append(f"/lib/modules has {', '.join(versions[:5])}, without a vmlinuz")
        if not self._esp:
            places.append("the disk has no EFI system partition that can be read")
        return GuestError(
            "find a kernel in",
            "the guest",
            why=shown("; ".join(places)),
            next_step="Install a kernel package in the guest; a /boot on a volume of its own must "
            "be on this disk, named by the guest's /etc/fstab or by its GPT type (XBOOTLDR, EFI "
            "system partition)",
        )

    def no_ramdisk(self, kernel: FoundKernel, modules: str) -> GuestError:
        """The error for a kernel without one."""
        places = [parent(kernel.path), *self._tops, modules]
        return unpaired(
            kernel.path,
            f"it has no ramdisk beside it, nor in {', '.join(dict.fromkeys(places[1:]))}",
            "Have the installed system make one with its dracut, update-initramfs or mkinitcpio",
        )


def unpaired(
    subject: str,
    why: str,
    next_step: str = "Kernel, ramdisk and /lib/modules must be of one version",
) -> GuestError:
    """The error for a kernel and what does not belong to it."""
    return GuestError("pair the guest's kernel with", shown(subject), why=why, next_step=next_step)

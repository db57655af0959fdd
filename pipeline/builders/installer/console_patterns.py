"""What installers say on the console: the phases of an install, and the words of its failure.

Taken from the sources of anaconda (loader of Fedora 15 up to the dracut module of today), dracut
and debian-installer; the kernel's panic line is the same in all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.builders.demo import FATAL

PANIC = re.compile(r"Kernel panic - not syncing")
BOOT = re.compile(r"^\[\s*0\.000000\] Linux version |^Linux version ")
"""The first line of a booting kernel: one boot more each time it is seen."""


@dataclass(frozen=True)
class Profile:
    """phases: patterns and the phase they start, in no order. fatal: patterns nothing survives.

    clock: text that comes by time alone and is no sign of life, None if there is none.
    """

    phases: tuple[tuple[re.Pattern[str], str], ...]
    fatal: tuple[re.Pattern[str], ...]
    clock: re.Pattern[str] | None = None

    def phase(self, line: str) -> str:
        """The phase the line starts; a pattern's group, if it has one, is its name. "" if none."""
        for pattern, name in self.phases:
            if match := pattern.search(line):
                return match[1].strip() if pattern.groups else name
        return ""

    def timeless(self, text: str) -> str:
        """The text without what only says that time goes by."""
        return (self.clock.sub("", text) if self.clock else text).strip()

    def is_fatal(self, line: str) -> bool:
        """Whether the installer cannot go on after this line."""
        return any(pattern.search(line) for pattern in self.fatal)


def _patterns(*texts: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(text) for text in texts)


def _phases(*pairs: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(text), name) for text, name in pairs)


_KERNEL = ((BOOT.pattern, "booting the installer"),)
_DRACUT = (
    r"Entering emergency mode",
    r"Generating \"/run/initramfs/rdsosreport.txt\"",
    r"dracut.* FATAL: ",
    r"You are in emergency mode",
)

ANACONDA = Profile(
    phases=_phases(
        *_KERNEL,
        (r"anaconda.*started|Running anaconda|Greetings\.|Starting installer", "anaconda starts"),
        (r"Starting automated install", "reading the kickstart"),
        (r"Checking software selection|Checking storage configuration", "checking the plan"),
        (r"[Ff]ormatting|Creating (?:disklabel|ext4|xfs|lvmpv|swap)", "making file systems"),
        (r"Starting package installation|Installing software|Downloading packages", "packages"),
        (r"^\s*Installing .* \(\d+/\d+\)|Packages completed", "packages"),
        (r"Installing boot loader|Bootloader", "installing the boot loader"),
        (r"Generating initramfs|Performing post-installation setup", "configuring"),
        (r"Running post-installation scripts|Running %post", "running %post"),
        (r"Installation complete|Congratulations", "finishing"),
    ),
    fatal=_patterns(
        *_DRACUT,
        r"anaconda .*exception report",
        r"An unknown error has occurred",
        r"Traceback \(most recent call last\)",
        r"The following problem occurred on line \d+ of the kickstart",
        r"Error (?:downloading|processing|parsing) kickstart|Unable to download the kickstart",
        r"The installation (?:was stopped|cannot continue|will be aborted)|"
        r"installation can(?:not|'t) (?:proceed|continue)",
        r"Unable to (?:find|read) (?:a suitable install image|the install image|package metadata)",
        r"Error (?:setting up|unpacking) (?:base repository|software source|image)",
        r"(?:Could not|Unable to) allocate requested partitions",
        r"not enough (?:free )?(?:disk )?space|Not enough space in file systems",
        r"Failed to (?:mount|find) (?:the )?(?:install|root) (?:image|filesystem)",
        r"The (?:group|package) '.*' is required for this installation",
    ),
)

DEBIAN = Profile(
    phases=_phases(
        *_KERNEL,
        (r"(Detecting hardware to find installation media|Loading additional components)", ""),
        (r"(Detecting network hardware|Configuring the network with DHCP)", ""),
        (r"(Choose a mirror of the Debian archive|Checking the Debian archive mirror)", ""),
        (r"(Setting up the clock|Detecting disks and all other hardware)", ""),
        (r"(Starting up the partitioner|Partitions formatting)", ""),
        (r"(Installing the base system|Configuring apt|Select and install software)", ""),
        (r"(Installing GRUB boot loader|Finishing the installation)", ""),
    ),
    fatal=_patterns(
        r"An installation step failed\b",
        r"Installation step failed",
        r"Bad archive mirror",
        r"Failed to partition the selected disk|Unable to satisfy all constraints",
        r"Failed to create a file system",
        r"Debootstrap Error|The debootstrap program exited with an error",
        r"Failed to run preseeded command|Execution of preseeded command",
        r"Unable to install the selected kernel|Unable to install GRUB|GRUB installation failed",
        r"No kernel modules were found",
        r"Loading libc6-udeb failed|Failed to load installer component",
        r"Network autoconfiguration failed",
        r"Failed to (?:process|retrieve) the preconfiguration file",
        r"^!! ERROR: ",  # the text frontend waits at every error for a key
    ),
    # The status line of screen(1), redrawn every minute whether the installer lives or not.
    clock=re.compile(r"\[ *\(\d\*installer\)[^\[\]]*\]\[ \w+ +\d+ +\d+:\d+ \]"),
)

STAND_IN = Profile(
    phases=_phases(*_KERNEL, (r"^installer: (?!FATAL)(.+)", "")),
    fatal=(re.compile("^" + re.escape(FATAL)),),
)

PROFILES = {"anaconda": ANACONDA, "debian-installer": DEBIAN, "stand-in": STAND_IN}
"""By the recipe's `installer`."""

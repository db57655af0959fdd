#!/usr/bin/env bash
# SUMMARY: kernel-install writes loader entries for kernels with "~" in their version that bootctl of the same release refuses.
# GUESS: What kernel-install writes, `bootctl list` shows: both are systemd's, and "~" is how the version format that
#   systemd itself compares by (UAPI.10) marks a release candidate. The default it shows is what will boot.
# SEEN: `kernel-install add 7.2~rc5-amd64` exits 0 and leaves loader/entries/debian-7.2~rc5-amd64.conf. `bootctl list`
#   says "Invalid loader entry name", leaves it out, exits 0, and calls the older kernel the default. Only letters, digits
#   and "+-_.@" are valid in an entry's name there (and in UAPI.1); the boot loader in the firmware asks for nothing but
#   the suffix .conf, so that it may boot another kernel than the one bootctl shows.
# VERSIONS: Debian 13: systemd, systemd-boot 257.13-1~deb13u1
# SOURCE: UAPI.1 Boot Loader Specification (file names of entries) against UAPI.10 Version Format Specification ("~");
#   systemd, src/shared/efi-loader.c (efi_loader_entry_name_valid) against src/boot/boot.c.
# WHY: A pipeline that asks bootctl (also as JSON) which kernel an image boots gets the wrong one for images with a
#   pre-release kernel, without an error; the entries have to be read and ordered by oneself.
set -euo pipefail
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
fail() { echo "NO LONGER SO: $*" >&2; exit 1; }
fetch() { # SUITE ROOT PACKAGE=VERSION...: these and what they depend on, unpacked below ROOT
    local suite=$1 root=$2 mirror a="$T/apt-$1" deb; shift 2
    mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | sed -n 1p) || true
    mkdir -p "$a"/lists/partial "$a"/cache/archives/partial "$root"/usr/{bin,sbin,lib,lib64}; : > "$a/status"
    for deb in bin sbin lib lib64; do [ -e "$root/$deb" ] || ln -s "usr/$deb" "$root/$deb"; done
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > "$a/list"
    local apt=(apt-get -qq -o Dir::Etc::SourceList="$a/list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$a/lists"
        -o Dir::State::status="$a/status" -o Dir::Cache="$a/cache" -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false
        -o APT::Sandbox::User=root -o Debug::NoLocking=true)
    "${apt[@]}" update
    "${apt[@]}" install --yes --no-install-recommends --download-only "$@" > "$a/log" 2>&1 || { tail -5 "$a/log" >&2; fail "the mirror has no $* in $suite"; }
    for deb in "$a"/cache/archives/*.deb; do dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --keep-directory-symlink; rm "$deb"; done
}

V=257.13-1~deb13u1
fetch trixie "$T/r" systemd=$V systemd-boot=$V coreutils dash sed grep findutils mawk
mkdir -p "$T/r"/{proc,tmp,esp,etc,dev} "$T/r/usr/lib/modules"/{7.1.0-amd64,7.2~rc5-amd64}
printf 'ID=debian\nPRETTY_NAME="Debian"\n' > "$T/r/etc/os-release"
cat > "$T/r/run.sh" <<'RUN'
export PATH=/usr/sbin:/usr/bin SYSTEMD_RELAX_ESP_CHECKS=1 SYSTEMD_RELAX_XBOOTLDR_CHECKS=1
mkdir -p /esp/loader/entries /esp/debian  # the directory of the token: layout "bls"
echo kernel > /tmp/vmlinuz
for version in 7.2~rc5-amd64 7.1.0-amd64; do
    kernel-install --esp-path=/esp --boot-path=/esp --entry-token=literal:debian --make-entry-directory=yes \
        add $version /tmp/vmlinuz > /dev/null 2>&1; echo "kernel-install add $version: exit $?"
done
ls /esp/loader/entries
bootctl --esp-path=/esp list --json=short > /tmp/list 2> /tmp/said; echo "bootctl list: exit $?"
sed 's/\x1b\[[0-9;]*m//g' /tmp/said
grep -o '"id":"[^"]*"' /tmp/list
RUN
unshare --mount --pid --fork --propagation private sh -c "mount -t proc proc '$T/r/proc' && mount -t tmpfs esp '$T/r/esp' && mount --rbind /dev '$T/r/dev' \
    && exec chroot '$T/r' /usr/bin/dash /run.sh" | tee "$T/out"
grep -q 'add 7.2~rc5-amd64: exit 0' "$T/out" && grep -qx 'debian-7.2~rc5-amd64.conf' "$T/out" || fail "kernel-install refuses the version"
grep -q 'Invalid loader entry name' "$T/out" || fail "bootctl takes the name"
grep -q '"id":"debian-7.1.0-amd64.conf"' "$T/out" || fail "bootctl does not list the other kernel"
! grep -q '"id":"debian-7.2~rc5' "$T/out" || fail "bootctl lists the entry"

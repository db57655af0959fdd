#!/usr/bin/env bash
# SUMMARY: Debian 13's sshd-keygen.service makes no host keys in an image whose /etc/machine-id is an empty file.
# GUESS: An image gets fresh SSH host keys at its first boot: the package ships a service "Generate sshd host keys on
#   first boot", and an empty /etc/machine-id is what machine-id(5) recommends for images that many machines boot.
# SEEN: With the empty file the id is made and the service is skipped (its condition is ConditionFirstBoot=yes),
#   so there are no keys and sshd does not start. Keys come only where the file is missing or says "uninitialized",
#   and then systemd-firstboot.service runs too. Booted here: the packages' files as an initramfs, once for each state.
# VERSIONS: openssh-server 1:10.0p1-7+deb13u4, systemd 257.13-1~deb13u1, Linux 6.12.117-1 (Debian 13); qemu of the host.
# SOURCE: machine-id(5), "First Boot Semantics"; systemd.unit(5), ConditionFirstBoot=.
# WHY: Every image tool that removes host keys and empties the machine id, as both manuals say, makes a Debian 13 or 14
#   image that cannot be reached; the mend is a unit of one's own, or a file that is missing with all a first boot does.
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

fetch trixie "$T/root" systemd=257.13-1~deb13u1 systemd-sysv=257.13-1~deb13u1 openssh-server=1:10.0p1-7+deb13u4 \
    linux-image-6.12.117+deb13-cloud-amd64=6.12.117-1 bash dash coreutils base-files
mv "$T"/root/boot/vmlinuz-* "$T/kernel"
rm -rf "$T"/root/boot "$T"/root/usr/lib/modules "$T"/root/usr/share/{doc,man,locale}
printf 'root:x:0:0:root:/root:/bin/bash\n' > "$T/root/etc/passwd"
printf 'root:x:0:\n' > "$T/root/etc/group"
mkdir -p "$T"/root/{proc,sys,dev,run,tmp,root}
# This unit tells what became of the package's service, and powers off.
cat > "$T/root/etc/systemd/system/tell.service" <<'UNIT'
[Unit]
After=sshd-keygen.service systemd-firstboot.service
[Service]
Type=oneshot
StandardOutput=file:/dev/console
ExecStart=/bin/bash -c 'for u in sshd-keygen systemd-firstboot; do echo "TOLD $u $(systemctl show -P ConditionResult $u)"; done; echo "TOLD keys $(ls /etc/ssh/ssh_host_*_key 2>/dev/null | wc -l)"; echo "TOLD id $(wc -c < /etc/machine-id)"'
ExecStopPost=/bin/systemctl --force --force poweroff
UNIT

told() { # the state's name: what the booted system says
    (cd "$T/root" && find . | cpio --quiet -o -H newc -R 0:0) > "$T/initrd"
    timeout 550 qemu-system-x86_64 -nodefaults -no-user-config -accel tcg -icount shift=2 -cpu max,la57=off -m 2048 \
        -display none -no-reboot -serial "file:$T/console" -kernel "$T/kernel" -initrd "$T/initrd" \
        -append "console=ttyS0 rdinit=/usr/lib/systemd/systemd systemd.unit=basic.target systemd.wants=sshd-keygen.service systemd.wants=tell.service systemd.firstboot=off"
    echo "== /etc/machine-id $1"
    tr -d '\r' < "$T/console" | grep -aoE 'TOLD .*' | sort -u | tee "$T/told"
}

: > "$T/root/etc/machine-id"
told "an empty file"
grep -q 'TOLD sshd-keygen no' "$T/told" || fail "the service runs with an empty machine id"
grep -q 'TOLD keys 0' "$T/told" || fail "there are keys"
grep -q 'TOLD id 33' "$T/told" || fail "systemd made no id"
rm "$T/root/etc/machine-id"
told "missing"
grep -q 'TOLD sshd-keygen yes' "$T/told" || fail "the service does not run where the file is missing"
grep -q 'TOLD keys 3' "$T/told" || fail "there are not three keys"
echo uninitialized > "$T/root/etc/machine-id"
told "uninitialized"
grep -q 'TOLD sshd-keygen yes' "$T/told" || fail "the service does not run where the file says uninitialized"

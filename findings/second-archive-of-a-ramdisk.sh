#!/usr/bin/env bash
# SUMMARY: lsinitramfs and `zstd -d | cpio` show only the first of several compressed archives in a ramdisk, which the kernel unpacks all.
# GUESS: A ramdisk of two zstd-compressed cpio archives (a base, and the modules of one kernel, as mkosi and dracut's users
#   join them) is listed whole by lsinitramfs, or at least an exit status says that something is left.
# SEEN: Joined directly: lsinitramfs lists the first archive alone and exits 0; `zstd -dc | cpio -t` too, as cpio stops at the
#   first trailer. With the zeros between that boot loaders and image builders put there (the kernel allows any number):
#   `zstd -dc` ends with status 1, "unsupported format", after the first frame. Only the second archive has the driver.
# VERSIONS: Debian 12: initramfs-tools-core 0.142+deb12u3, zstd 1.5.4+dfsg2-5, cpio 2.13+dfsg-7.1
# SOURCE: Linux, Documentation/driver-api/early-userspace/buffer-format.rst ("initramfs := ("\0" | cpio_archive |
#   cpio_gzip_archive)*"); unmkinitramfs(8), which splits off uncompressed archives at the front only.
# WHY: A check of a ramdisk's drivers through these programs calls sound images of mkosi unbootable (virtio_blk "missing"), or
#   unpacks and repacks them without their modules; the end of each frame must be found and the next archive looked for.
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
inside() { # ROOT PROGRAM ARGUMENT...
    local root=$1; shift
    "$root/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" "$root$1" "${@:2}"
}

fetch bookworm "$T/r" initramfs-tools-core=0.142+deb12u3 zstd=1.5.4+dfsg2-5 cpio=2.13+dfsg-7.1
mkdir "$T/bin"
for program in zstd cpio; do # the pinned ones, for the shell script as well
    printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' "$T/r/lib64/ld-linux-x86-64.so.2" \
        "$T/r/usr/lib/x86_64-linux-gnu" "$T/r/usr/bin/$program" > "$T/bin/$program"
    ln -sf zstd "$T/bin/unzstd"
done
chmod +x "$T/bin"/*; export PATH="$T/bin:$PATH"
mkdir -p "$T"/{base,modules/usr/lib/modules/6.12}
echo '#!/bin/sh' > "$T/base/init"; echo driver > "$T/modules/usr/lib/modules/6.12/virtio_blk.ko"
for part in base modules; do (cd "$T/$part" && find . | cpio -o -H newc 2> /dev/null | zstd -q > "$T/$part.zst"); done
cat "$T/base.zst" "$T/modules.zst" > "$T/joined"
(cat "$T/base.zst"; head -c 512 /dev/zero; cat "$T/modules.zst") > "$T/padded"

echo "== lsinitramfs, joined directly"; status=0
sh "$T/r/usr/bin/unmkinitramfs" --list "$T/joined" > "$T/seen" 2> /dev/null || status=$?
cat "$T/seen"; echo "exit $status"
[ $status = 0 ] && grep -q '^init$' "$T/seen" && ! grep -q virtio_blk "$T/seen" || fail "unmkinitramfs --list shows the second archive"
echo "== zstd -dc | cpio -t, joined directly"; zstd -dcq "$T/joined" | cpio -t 2> /dev/null | tee "$T/seen"
! grep -q virtio_blk "$T/seen" || fail "cpio goes on behind the first trailer"
echo "== zstd -dc, with zeros between"; status=0; zstd -dc "$T/padded" 2> "$T/said" > "$T/out" || status=$?
sed "s#$T/##" "$T/said"; echo "exit $status"
[ $status = 1 ] && cmp -s "$T/out" <(zstd -dcq "$T/base.zst") || fail "zstd skips zeros between frames"

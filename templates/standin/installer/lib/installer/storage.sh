# The disk: partition table, volume group, file systems, mounts.
# shellcheck shell=dash
# The kickstart's values come from kickstart.sh; tables are read whole, unused columns too.
# shellcheck disable=SC2154,SC2034

MAX_PRIMARY=4

# choose_disk: sets `disk`; it may hold partitions only if the kickstart clears them.
choose_disk() {
    local name tries=0
    disk=
    while [ -z "$disk" ]; do
        for name in $disk_wanted; do
            [ ! -d "/sys/block/$name" ] || disk=$name
        done
        if [ -z "$disk_wanted" ]; then
            for name in /sys/block/vd[a-z] /sys/block/sd[a-z]; do
                [ ! -d "$name" ] || [ -n "$disk" ] || disk=${name##*/}
            done
        fi
        tries=$((tries + 1))
        [ -n "$disk" ] || [ "$tries" -lt 100 ] || fatal "there is no disk ${disk_wanted:-at all}"
        [ -n "$disk" ] || usleep 100000
    done
    echo "installer: disk $disk of $(($(cat "/sys/block/$disk/size") / 2048)) MiB"
    if ls -d "/sys/block/$disk/$disk"[0-9]* >/dev/null 2>&1; then
        [ -n "$clear_all" ] || fatal "$disk has partitions and the kickstart has no clearpart --all"
    elif [ "$(dd if="/dev/$disk" bs=1 skip=510 count=2 2>/dev/null | od -An -tx1)" != " 55 aa" ]; then
        [ -n "$zerombr" ] || fatal "$disk has no partition table and the kickstart has no zerombr"
    fi
}

# plan_partitions: /boot first, then swap and the others, then physical volumes; sizes in MiB.
plan_partitions() {
    local available fixed grow
    available=$(($(cat "/sys/block/$disk/size") / 2048 - 1))
    {
        grep '^/boot|' "$STATE/parts"
        grep -v -e '^/boot|' -e '^pv\.' "$STATE/parts"
        grep '^pv\.' "$STATE/parts"
    } >"$STATE/plan"
    [ "$(wc -l <"$STATE/plan")" -le "$MAX_PRIMARY" ] ||
        fatal "this installer makes at most $MAX_PRIMARY partitions"
    fixed=$(awk -F'|' '{ sum += $3 } END { print sum + 0 }' "$STATE/plan")
    [ "$fixed" -le "$available" ] ||
        fatal "not enough space: the partitions need $fixed MiB, $disk has $available"
    grow=$((available - fixed))
    grown "$STATE/plan" "$grow"
}

# grown TABLE UNITS: give what is left to the volume that grows, within its maximum.
grown() {
    awk -F'|' -v OFS='|' -v left="$2" '
        $5 { $3 += left; if ($4 != "" && $3 > $4) $3 = $4 }
        { print }' "$1" >"$1.grown" && mv "$1.grown" "$1"
}

# write_partitions: an MBR table aligned to 1 MiB; each line of the plan gets its device as ninth.
write_partitions() {
    local start=1 index=0 mount fstype size maxsize grow label fsoptions name kind flag
    echo "label: dos" >"$STATE/sfdisk"
    : >"$STATE/devices"
    while IFS='|' read -r mount fstype size maxsize grow label fsoptions name; do
        index=$((index + 1))
        kind=83 flag=
        [ "$fstype" != lvm ] || kind=8e
        [ "$fstype" != swap ] || kind=82
        [ "$mount" != /boot ] || flag=", bootable"
        echo "start=$((start * 2048)), size=$((size * 2048)), type=$kind$flag" >>"$STATE/sfdisk"
        start=$((start + size))
        echo "$mount|$fstype|/dev/$disk$index|$label|$fsoptions" >>"$STATE/devices"
    done <"$STATE/plan"
    wipe_signatures
    # shellcheck disable=SC2016 # expanded by the inner shell, whose arguments they are
    must sh -c '/sbin/sfdisk --quiet "$1" <"$2"' sfdisk "/dev/$disk" "$STATE/sfdisk"
    wait_for_devices
}

# wipe_signatures: an old volume group or file system must not shine through.
wipe_signatures() {
    local old
    for old in "/dev/$disk"[0-9]* "/dev/$disk"; do
        [ ! -b "$old" ] || dd if=/dev/zero of="$old" bs=64k count=16 conv=fsync 2>/dev/null
    done
}

wait_for_devices() {
    local mount fstype device label fsoptions tries
    while IFS='|' read -r mount fstype device label fsoptions; do
        tries=0
        until [ -b "$device" ]; do
            tries=$((tries + 1))
            [ "$tries" -lt 100 ] || fatal "$device did not appear"
            usleep 100000
        done
    done <"$STATE/devices"
}

# write_volumes: the volume group and its logical volumes, in the kickstart's order.
write_volumes() {
    local pv devices="" mount fstype size maxsize grow label fsoptions name left
    [ -n "$volume_group" ] || return 0
    while read -r pv; do
        devices="$devices $(grep -F "$pv|lvm|" "$STATE/devices" | cut -d'|' -f3)"
    done <"$STATE/group"
    # shellcheck disable=SC2086 # one word a device
    must /sbin/lvm pvcreate -ff -y $devices
    # shellcheck disable=SC2086
    must /sbin/lvm vgcreate -s "${extent_kib}k" "$volume_group" $devices
    # From MiB to extents, rounded up, as a volume is never smaller than asked for.
    awk -F'|' -v OFS='|' -v pe="$extent_kib" '
        { $3 = int(($3 * 1024 + pe - 1) / pe); if ($4 != "") $4 = int($4 * 1024 / pe); print }' \
        "$STATE/volumes" >"$STATE/extents"
    left=$(/sbin/lvm vgs --noheadings -o vg_free_count "$volume_group" | tr -d ' ')
    left=$((left - $(awk -F'|' '{ sum += $3 } END { print sum + 0 }' "$STATE/extents")))
    [ "$left" -ge 0 ] ||
        fatal "not enough space: $volume_group lacks $((-left * extent_kib / 1024)) MiB"
    grown "$STATE/extents" "$left"
    while IFS='|' read -r mount fstype size maxsize grow label fsoptions name; do
        must /sbin/lvm lvcreate -y -Wy -Zy -l "$size" -n "$name" "$volume_group"
        echo "$mount|$fstype|$(mapper_name "$volume_group" "$name")|$label|$fsoptions" \
            >>"$STATE/devices"
    done <"$STATE/extents"
}

# mapper_name VG LV: device-mapper doubles the dashes within each name.
mapper_name() {
    echo "/dev/mapper/$(echo "$1" | sed 's/-/--/g')-$(echo "$2" | sed 's/-/--/g')"
}

# make_filesystems: also writes the target's fstab to $STATE/fstab, root first.
make_filesystems() {
    local mount fstype device label fsoptions uuid spec pass
    : >"$STATE/fstab.lines"
    while IFS='|' read -r mount fstype device label fsoptions; do
        uuid=$(new_uuid)
        case $fstype in
            lvm) continue ;;
            # Full paths: the shell would take its own applets.
            swap) must /sbin/mkswap -U "$uuid" "$device" ;;
            *)
                must /sbin/mke2fs -q -F -t "$fstype" -U "$uuid" ${label:+-L "$label"} "$device"
                ;;
        esac
        # Plain partitions by UUID, volumes by name, as Fedora's installer does.
        spec=UUID=$uuid
        case $device in /dev/mapper/*) spec=$device ;; esac
        case $mount in
            swap) printf '%-23s %-23s %-7s %-15s %s\n' "$spec" swap swap "${fsoptions:-defaults}" "0 0" ;;
            *)
                pass=2
                [ "$mount" != / ] || pass=1
                printf '%-23s %-23s %-7s %-15s %s\n' "$spec" "$mount" "$fstype" \
                    "${fsoptions:-defaults}" "1 $pass"
                ;;
        esac >>"$STATE/fstab.lines"
    done <"$STATE/devices"
    # A parent directory must be mounted before what lies below it.
    awk '{ print ($2 == "swap" ? "~" : $2) "\t" $0 }' "$STATE/fstab.lines" | sort | cut -f2- \
        >"$STATE/fstab"
}

# mount_target: everything of the kickstart, and what scripts in a chroot need.
mount_target() {
    local mount fstype device label fsoptions
    sort -t'|' -k1,1 "$STATE/devices" >"$STATE/mounts"
    while IFS='|' read -r mount fstype device label fsoptions; do
        case $mount in
            /*)
                mkdir -p "$TARGET$mount"
                must mount -t "$fstype" "$device" "$TARGET$mount"
                ;;
        esac
    done <"$STATE/mounts"
}

# mount_kernel_views: after the root is unpacked, whose directories they cover.
mount_kernel_views() {
    local name
    for name in dev dev/pts proc sys; do
        must mount -o bind "/$name" "$TARGET/$name"
    done
}

# unmount_target: nothing may be left in memory; volumes are closed.
unmount_target() {
    local place
    sync
    awk -v t="$TARGET" 'index($2, t) == 1 { print $2 }' /proc/mounts | sort -r >"$STATE/mounted"
    while read -r place; do
        must umount "$place"
    done <"$STATE/mounted"
    [ -z "$volume_group" ] || must /sbin/lvm vgchange -an "$volume_group"
    sync
}

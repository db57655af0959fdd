# Reads the kickstart: every command is either understood in full or named as a fault.
# shellcheck shell=dash
# `options` sets the o_ variables; the kickstart's values are used in the other parts.
# shellcheck disable=SC2154,SC2034

FSTYPES="ext2 ext3 ext4"
SERVICES="network sshd acpid"

language=en_US.UTF-8
keymap=us
zone=UTC
hardware_clock=LOCAL
root_password=
root_password_kind=
root_locked=
password_method=sha512
boot_append=
boot_timeout=5
zerombr=
clear_all=
disk_wanted=
volume_group=
extent_kib=4096
host_name=localhost.localdomain
network_device=
network_onboot=yes
services_off=
source_given=

# find_kickstart: sets `kickstart` to the file that the kernel command line names.
find_kickstart() {
    local word path= url=
    # The command line is words.
    # shellcheck disable=SC2013
    for word in $(cat /proc/cmdline); do
        case $word in
            ks=file:* | inst.ks=file:*) path=${word#*=file:} ;;
            ks=http://* | inst.ks=http://*) url=${word#*=} ;;
            ks=* | inst.ks=*)
                fatal "ks= must name an injected file, ks=file:/NAME, or a plain ks=http://URL"
                ;;
        esac
    done
    if [ -n "$url" ]; then
        fetch_kickstart "$url"
        return
    fi
    [ -n "$path" ] || fatal "the command line has no ks=file:/NAME"
    # file:/NAME and file:///NAME are the same file; virt-install injects into the top directory.
    kickstart=/$(echo "$path" | sed 's,^/*,,')
    [ -f "$kickstart" ] || fatal "there is no kickstart $kickstart in the initrd"
}

# fetch_kickstart URL: sets `kickstart` to a copy of what the network serves there.
fetch_kickstart() {
    local card
    phase "Fetching the kickstart"
    for card in /sys/class/net/*; do
        [ -e "$card/device" ] || continue
        must ip link set "${card##*/}" up
        must udhcpc -i "${card##*/}" -s /usr/share/udhcpc/default.script -n -q -f -t 10 -T 3
    done
    kickstart=$STATE/ks.cfg
    must wget -q -O "$kickstart" "$1"
}

# read_kickstart: sections to $STATE, commands to variables and tables.
read_kickstart() {
    local line
    cp "$kickstart" "$STATE/anaconda-ks.cfg"
    : >"$STATE/parts"
    : >"$STATE/volumes"
    : >"$STATE/users"
    : >"$STATE/commands"
    awk -v out="$STATE" -f kickstart.awk "$kickstart" || fatal "the kickstart cannot be read"
    while IFS= read -r line; do
        with_words read_command "$line"
    done <"$STATE/commands"
    check_scripts
    check_packages
    [ -n "$root_password_kind" ] || fault 0 "rootpw is missing"
    [ -n "$source_given" ] || fault 0 "the installation source is missing: cdrom"
    cut -d'|' -f1 "$STATE/parts" "$STATE/volumes" | grep -qx / ||
        fault 0 "no part or logvol is mounted at /"
}

# read_command LINE COMMAND WORD...
read_command() {
    local line=$1 command=$2
    shift 2
    case $command in
        install | text | cmdline | skipx)
            options "$line" "" "$@"
            no_rest "$line" "$command"
            ;;
        cdrom)
            options "$line" "" "$@"
            no_rest "$line" "$command"
            source_given=1
            ;;
        url | nfs | harddrive)
            fault "$line" "$command: this installer carries what it installs; say cdrom"
            ;;
        poweroff | shutdown | halt | reboot)
            options "$line" "" "$@"
            no_rest "$line" "$command"
            echo "$command" >"$STATE/ending"
            ;;
        lang)
            options "$line" "" "$@"
            one_rest "$line" lang
            plain "$line" lang "$only"
            language=$only
            ;;
        keyboard)
            options "$line" "" "$@"
            one_rest "$line" keyboard
            plain "$line" keyboard "$only"
            keymap=$only
            ;;
        timezone)
            options "$line" "utc isUtc" "$@"
            one_rest "$line" timezone
            among "$line" "time zone" "$only" "UTC Etc/UTC"
            zone=$only
            [ -z "$o_utc$o_isUtc" ] || hardware_clock=UTC
            ;;
        rootpw)
            options "$line" "iscrypted plaintext lock" "$@"
            one_rest "$line" rootpw
            root_password=$only
            root_password_kind=plaintext
            [ -z "$o_iscrypted" ] || root_password_kind=iscrypted
            root_locked=$o_lock
            ;;
        user)
            options "$line" "name= password= iscrypted plaintext lock uid= shell= gecos=" "$@"
            no_rest "$line" user
            read_user "$line"
            ;;
        auth | authconfig)
            options "$line" "enableshadow useshadow passalgo=" "$@"
            no_rest "$line" "$command"
            if [ -n "$o_passalgo" ]; then
                among "$line" "--passalgo" "$o_passalgo" "sha512 sha256 md5"
                password_method=$o_passalgo
            fi
            ;;
        firewall | selinux)
            options "$line" "disabled" "$@"
            no_rest "$line" "$command"
            [ -n "$o_disabled" ] || fault "$line" "$command: only --disabled is supported"
            ;;
        firstboot)
            options "$line" "disable disabled" "$@"
            no_rest "$line" firstboot
            [ -n "$o_disable$o_disabled" ] || fault "$line" "firstboot: only --disabled is supported"
            ;;
        services)
            options "$line" "enabled= disabled=" "$@"
            no_rest "$line" services
            services_off=$(echo "$o_disabled" | tr , ' ')
            for service in $(echo "$o_enabled,$o_disabled" | tr , ' '); do
                among "$line" service "$service" "$SERVICES"
            done
            ;;
        network)
            options "$line" "bootproto= device= onboot= hostname= activate" "$@"
            no_rest "$line" network
            among "$line" "--bootproto" "${o_bootproto:-dhcp}" dhcp
            network_device=$o_device
            [ -z "$o_device" ] || plain "$line" "--device" "$o_device"
            [ -z "$o_onboot" ] || among "$line" "--onboot" "$o_onboot" "yes no on off"
            case $o_onboot in no | off) network_onboot=no ;; esac
            if [ -n "$o_hostname" ]; then
                plain "$line" "--hostname" "$o_hostname"
                host_name=$o_hostname
            fi
            ;;
        bootloader)
            options "$line" "location= append= timeout=" "$@"
            no_rest "$line" bootloader
            # There is no boot loader among the packages; only its configuration is written.
            among "$line" "bootloader --location" "${o_location:-mbr}" none
            boot_append=$o_append
            if [ -n "$o_timeout" ]; then
                number "$line" "--timeout" "$o_timeout"
                boot_timeout=$o_timeout
            fi
            ;;
        zerombr)
            options "$line" "" "$@"
            [ -z "$rest" ] || one_rest "$line" zerombr
            [ -z "$rest" ] || among "$line" zerombr "$only" yes
            zerombr=1
            ;;
        clearpart)
            options "$line" "all none initlabel drives=" "$@"
            no_rest "$line" clearpart
            clear_all=$o_all
            [ -z "$o_initlabel" ] || zerombr=1
            want_disk "$line" "$o_drives"
            ;;
        ignoredisk)
            options "$line" "only-use=" "$@"
            no_rest "$line" ignoredisk
            [ -n "$o_only_use" ] || fault "$line" "ignoredisk: only --only-use= is supported"
            want_disk "$line" "$o_only_use"
            ;;
        part | partition)
            options "$line" "fstype= size= grow maxsize= asprimary ondisk= ondrive= label= fsoptions=" "$@"
            one_rest "$line" "$command"
            want_disk "$line" "$o_ondisk"
            want_disk "$line" "$o_ondrive"
            read_volume "$line" "$only" parts "$only"
            ;;
        volgroup)
            options "$line" "pesize=" "$@"
            read_group "$line"
            ;;
        logvol)
            options "$line" "vgname= name= fstype= size= grow maxsize= fsoptions=" "$@"
            one_rest "$line" logvol
            o_label=
            plain "$line" "logvol --name" "$o_name"
            [ "${o_vgname:-?}" = "$volume_group" ] ||
                fault "$line" "logvol: there is no volgroup '$o_vgname' above it"
            read_volume "$line" "$only" volumes "$o_name"
            ;;
        *)
            fault "$line" "$command is not supported by this installer"
            ;;
    esac
}

# want_disk LINE NAME: the kickstart names the disk to install on.
want_disk() {
    [ -n "$2" ] || return 0
    case $2 in
        *[!a-z]*) fault "$1" "'$2' is not the name of one disk, such as vda" ;;
    esac
    [ -z "$disk_wanted" ] || [ "$disk_wanted" = "$2" ] ||
        fault "$1" "this installer uses one disk, not both $disk_wanted and $2"
    disk_wanted=$2
}

# read_volume LINE MOUNT TABLE NAME: one line MOUNT|FSTYPE|SIZE|MAXSIZE|GROW|LABEL|FSOPTIONS|NAME.
read_volume() {
    local line=$1 mount=$2 table=$3 name=$4
    number "$line" "--size" "${o_size:-0}"
    [ -z "$o_maxsize" ] || number "$line" "--maxsize" "$o_maxsize"
    [ "${o_size:-0}" != 0 ] || [ -n "$o_grow" ] || fault "$line" "$mount has neither --size nor --grow"
    case $mount in
        swap)
            [ -z "$o_fstype" ] || among "$line" "--fstype of swap" "$o_fstype" swap
            o_fstype=swap
            ;;
        pv.*)
            [ "$table" = parts ] || fault "$line" "$mount cannot be a logical volume"
            [ -z "$o_fstype$o_label$o_fsoptions" ] || fault "$line" "$mount has no file system"
            o_fstype=lvm
            ;;
        /*)
            o_fstype=${o_fstype:-ext4}
            among "$line" "--fstype" "$o_fstype" "$FSTYPES"
            ;;
        *) fault "$line" "'$mount' is neither a directory, swap nor pv.N" ;;
    esac
    plain "$line" "mount point" "$mount"
    [ -z "$o_fsoptions" ] || plain "$line" "--fsoptions" "$o_fsoptions"
    if [ -n "$o_label" ]; then
        plain "$line" "--label" "$o_label"
        [ "${#o_label}" -le 16 ] || fault "$line" "--label is longer than 16 characters"
    fi
    if [ -n "$o_grow" ] && cut -d'|' -f5 "$STATE/$table" | grep -q 1; then
        fault "$line" "this installer grows one volume only, not $mount as well"
    fi
    if cut -d'|' -f8 "$STATE/$table" | grep -Fqx "$name" && [ "$name" != swap ]; then
        fault "$line" "there are two of $name"
    fi
    echo "$mount|$o_fstype|${o_size:-0}|$o_maxsize|$o_grow|$o_label|$o_fsoptions|$name" \
        >>"$STATE/$table"
}

# read_group LINE: volgroup NAME pv.N...
read_group() {
    local pv
    [ -z "$volume_group" ] || fault "$1" "this installer makes one volume group only"
    volume_group=$(echo "$rest" | cut -d"$US" -f2)
    plain "$1" "volgroup name" "$volume_group"
    for pv in $(echo "$rest" | cut -d"$US" -f3- | tr "$US" ' '); do
        grep -Fq "$pv|lvm|" "$STATE/parts" || fault "$1" "there is no part $pv above it"
        echo "$pv" >>"$STATE/group"
    done
    [ -s "$STATE/group" ] || fault "$1" "volgroup $volume_group has no pv.N"
    if [ -n "$o_pesize" ]; then
        among "$1" "--pesize" "$o_pesize" "1024 2048 4096 8192 16384 32768 65536"
        extent_kib=$o_pesize
    fi
}

# read_user LINE: one line NAME:UID:SHELL:LOCKED:KIND:PASSWORD; the password may hold colons.
read_user() {
    local kind=plaintext
    case $o_name in
        '' | [!a-z_]* | *[!a-z0-9_-]*) fault "$1" "user --name='$o_name' is no user name" ;;
    esac
    [ -z "$o_uid" ] || number "$1" "--uid" "$o_uid"
    [ -z "$o_shell" ] || among "$1" "--shell" "$o_shell" "/bin/sh /bin/ash"
    [ -z "$o_gecos" ] || plain "$1" "--gecos" "$o_gecos"
    [ -z "$o_iscrypted" ] || kind=iscrypted
    echo "$o_name:$o_uid:${o_shell:-/bin/sh}:$o_lock:$kind:$o_gecos:$o_password" >>"$STATE/users"
}

# check_packages: what is asked for must be what there is.
check_packages() {
    local line name ignore=
    if [ -f "$STATE/packages.options" ]; then
        IFS=$US read -r line name <"$STATE/packages.options"
        for name in $(echo "$name" | tr "$US" ' '); do
            case $name in
                --ignoremissing) ignore=1 ;;
                --nobase | --excludedocs) ;; # neither is among the packages
                *) fault "$line" "%packages $name is not supported by this installer" ;;
            esac
        done
    fi
    [ -f "$STATE/packages" ] || return 0
    while IFS=$US read -r line name; do
        case $name in
            -*)
                if grep -Fqx -e "${name#-}" packages; then
                    fault "$line" "${name#-} cannot be left out"
                fi
                ;;
            *)
                [ -n "$ignore" ] || grep -Fqx -e "$name" packages ||
                    fault "$line" "there is no package $name"
                ;;
        esac
    done <"$STATE/packages"
}

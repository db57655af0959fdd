# Words for the console and the log, used by all parts of the installer.
# shellcheck shell=dash
# Set here, used in the other parts.
# shellcheck disable=SC2034

TARGET=/mnt/sysimage
STATE=/run/ks
LOG=/tmp/anaconda.log

# phase TEXT: announce what comes next.
phase() {
    echo "installer: $1"
    note "phase: $1"
}

# note TEXT: one line in the log.
note() {
    echo "$(cut -d' ' -f1 /proc/uptime) $1" >>"$LOG"
}

# fatal TEXT: give up; init ends the machine as the kickstart says.
fatal() {
    echo "installer: FATAL: $1"
    note "FATAL: $1"
    : >"$STATE/fatal"
    exit 1
}

# must COMMAND...: run it; fatal with the end of what it said when it fails.
must() {
    note "run: $*"
    if ! "$@" >"$STATE/said" 2>&1; then
        cat "$STATE/said" >>"$LOG"
        tail -n 20 "$STATE/said"
        fatal "$1 failed"
    fi
    cat "$STATE/said" >>"$LOG"
}

# new_uuid: a random UUID.
new_uuid() {
    cat /proc/sys/kernel/random/uuid
}

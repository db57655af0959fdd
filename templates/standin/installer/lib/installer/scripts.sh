# The kickstart's %pre and %post scripts.
# shellcheck shell=dash
# `options` sets the o_ variables.
# shellcheck disable=SC2154

# check_scripts: the headers of all scripts, before anything is done.
check_scripts() {
    local line when
    [ -f "$STATE/scripts" ] || return 0
    while read -r line when; do
        with_words script_options "$(cat "$STATE/script.$line.header")"
    done <"$STATE/scripts"
}

# script_options LINE pre|post WORD...
script_options() {
    local line=$1 when=$2
    shift 2
    case $when in
        pre) options "$line" "interpreter= erroronfail log=" "$@" ;;
        post) options "$line" "interpreter= erroronfail log= nochroot" "$@" ;;
    esac
    no_rest "$line" "%$when"
    [ -z "$o_log" ] || plain "$line" "--log" "$o_log"
}

# run_scripts pre|post: in order; a failure ends the installation where --erroronfail asks.
run_scripts() {
    local line when status
    [ -f "$STATE/scripts" ] || return 0
    # Descriptor 3: the scripts must not read the list.
    while read -r line when <&3; do
        [ "$when" = "$1" ] || continue
        with_words script_options "$(cat "$STATE/script.$line.header")"
        note "line $line: %$when with ${o_interpreter:-/bin/sh}"
        run_script "$STATE/script.$line" "$when"
        status=$?
        note "line $line: %$when ended with status $status"
        [ "$status" -ne 0 ] || continue
        echo "installer: %$when of line $line ended with status $status"
        if [ -n "$o_erroronfail" ]; then
            tail -n 20 "$STATE/script.log"
            fatal "%$when of line $line failed with status $status and has --erroronfail"
        fi
    done 3<"$STATE/scripts"
}

# run_script FILE pre|post: here, or in the target.
run_script() {
    local interpreter=${o_interpreter:-/bin/sh} root="" log
    [ "$2" = pre ] || [ -n "$o_nochroot" ] || root=$TARGET
    if [ ! -x "$root$interpreter" ] && [ ! -L "$root$interpreter" ]; then
        fatal "%$2: there is no interpreter $interpreter"
    fi
    log=${o_log:+$root$o_log}
    log=${log:-$STATE/script.log}
    mkdir -p "${log%/*}"
    if [ -n "$root" ]; then
        cp "$1" "$root/tmp/ks-script"
        chroot "$root" "$interpreter" /tmp/ks-script </dev/null >"$log" 2>&1
        set -- $?
        rm -f "$root/tmp/ks-script"
    else
        "$interpreter" "$1" </dev/null >"$log" 2>&1
        set -- $?
    fi
    [ "$log" = "$STATE/script.log" ] || cp "$log" "$STATE/script.log"
    cat "$log" >>"$LOG"
    return "$1"
}

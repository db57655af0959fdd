# The words of a kickstart line: options, values, and what is wrong with them.
# shellcheck shell=dash
# Values are used by way of eval and in the other parts.
# shellcheck disable=SC2034

US=$(printf '\037')

# fault LINE TEXT: something of the kickstart cannot be honoured.
fault() {
    echo "line $1: $2" >>"$STATE/faults"
}

# refuse_faults: fatal when there are any, after showing all.
refuse_faults() {
    [ -s "$STATE/faults" ] || return 0
    sed 's/^/installer: kickstart: /' "$STATE/faults"
    fatal "the kickstart cannot be honoured: $(head -n 1 "$STATE/faults")"
}

# options LINE SPEC WORD...: sets o_NAME for each name of SPEC and `rest` to the other words,
# each preceded by US. A name of SPEC that ends in = takes a value.
options() {
    local line=$1 spec=$2 word name value has
    shift 2
    rest=
    for word in $spec; do eval "o_$(echo "${word%=}" | tr - _)="; done
    while [ $# -gt 0 ]; do
        word=$1
        shift
        case $word in
            --*) ;;
            *)
                rest=$rest$US$word
                continue
                ;;
        esac
        name=${word#--}
        has=
        value=1
        case $name in
            *=*)
                has=1
                value=${name#*=}
                name=${name%%=*}
                ;;
        esac
        case $name in
            '' | *[!a-zA-Z-]*)
                fault "$line" "$word is not an option"
                continue
                ;;
        esac
        case " $spec " in
            *" $name= "*)
                if [ -z "$has" ]; then
                    if [ $# -eq 0 ]; then
                        fault "$line" "--$name needs a value"
                        continue
                    fi
                    value=$1
                    shift
                fi
                ;;
            *" $name "*)
                [ -z "$has" ] || fault "$line" "--$name takes no value"
                ;;
            *)
                fault "$line" "--$name is not supported by this installer"
                continue
                ;;
        esac
        eval "o_$(echo "$name" | tr - _)=\$value"
    done
}

# with_words FUNCTION LINE: call it with the words of a line that kickstart.awk wrote.
with_words() {
    local function=$1
    set -f
    IFS=$US
    # Splitting at US is the purpose; globbing is off.
    # shellcheck disable=SC2086
    set -- $2
    unset IFS
    set +f
    "$function" "$@"
}

# no_rest LINE COMMAND: the command takes no further words.
no_rest() {
    [ -z "$rest" ] || fault "$1" "$2 does not take:$(echo "$rest" | tr "$US" ' ')"
}

# one_rest LINE COMMAND: the command takes exactly one further word; sets `only`.
one_rest() {
    only=${rest#"$US"}
    case $only in
        '' | *"$US"*) fault "$1" "$2 takes one word" ;;
    esac
}

# plain LINE WHAT VALUE: the value must be made of harmless characters.
plain() {
    case $3 in
        '' | *[!A-Za-z0-9._/:@,=+-]*) fault "$1" "$2 '$3' has unusual characters" ;;
    esac
}

# number LINE WHAT VALUE: the value must be a whole number.
number() {
    case $3 in
        '' | *[!0-9]* | ??????????*) fault "$1" "$2 '$3' is not a whole number of use here" ;;
    esac
}

# among LINE WHAT VALUE CHOICES
among() {
    case " $4 " in
        *" $3 "*) ;;
        *) fault "$1" "$2 $3 is not supported by this installer (supported: $4)" ;;
    esac
}

# Splits a kickstart into files of the directory `out`:
#   commands               one command a line: line number, then its words
#   packages               the lines of %packages
#   scripts                one a line: the line number N of a script, and pre or post
#   script.N               its body
#   script.N.header        N, pre or post, and the other words of its header
#   faults                 one a line, for people
# Words are separated by the character US (octal 037). Quotes and # comments as in a shell,
# without any expansion.
# Source: the kickstart documentation of pykickstart; its tokens are those of Python's shlex.

function fault(text) { print "line " NR ": " text > (out "/faults") }

# The words of a line, each preceded by US.
function words(line,    i, c, quote, word, started, result) {
    result = ""; word = ""; started = 0; quote = ""
    for (i = 1; i <= length(line); i++) {
        c = substr(line, i, 1)
        if (quote != "") {
            if (c == quote) quote = ""
            else if (c == "\\" && quote == "\"" && substr(line, i + 1, 1) ~ /["\\]/)
                word = word substr(line, ++i, 1)
            else word = word c
        }
        else if (c == "'" || c == "\"") { quote = c; started = 1 }
        else if (c == "\\") { word = word substr(line, ++i, 1); started = 1 }
        else if (c == "#") break
        else if (c == " " || c == "\t") {
            if (started) result = result US word
            word = ""; started = 0
        }
        else { word = word c; started = 1 }
    }
    if (quote != "") fault("a quotation mark is not closed")
    if (started) result = result US word
    return result
}

BEGIN { US = sprintf("%c", 31); section = "" }

{ sub(/\r$/, "") }

section == "" && /^%/ {
    header = words($0)
    split(substr(header, 2), part, US)
    section = part[1]; began = NR
    if (section == "%pre" || section == "%post") {
        body = out "/script." NR
        printf "" > body
        print NR, substr(section, 2) > (out "/scripts")
        print NR US substr(header, 3) > (body ".header")
    }
    else if (section == "%packages") {
        print NR substr(header, 2 + length(section)) > (out "/packages.options")
    }
    else if (section == "%end") { fault("%end without a section"); section = "" }
    else {
        fault(section " is not supported by this installer")
        if (section == "%include" || section == "%ksappend") section = ""
    }
    next
}

section != "" && /^%end[ \t]*(#.*)?$/ { section = ""; next }

section == "%pre" || section == "%post" { print > body; next }

section == "%packages" {
    line = words($0)
    if (line != "") print NR line > (out "/packages")
    next
}

section != "" { next }

{
    line = words($0)
    if (line != "") print NR line > (out "/commands")
}

END { if (section != "") { NR = began; fault(section " has no %end") } }

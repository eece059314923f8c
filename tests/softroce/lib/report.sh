# shellcheck shell=bash
# What the guests reported, and what they asked of the host.

pass() { PASSED[$1]=$((PASSED[$1] + 1)); say "  PASS $2"; }
fail() { FAILED[$1]=$((FAILED[$1] + 1)); say "  FAIL $2"; }

# Follows the guests of a suite until all have ended or the time is up: the suite's own, which the
# guest keeps, and that for booting and powering off.
# Usage: follow SUITE GUESTS LIMIT-SECONDS LOG
follow() {
    local suite=$1 guests=$2 limit=$3 log=$4 deadline=$((SECONDS + $3 + BOOT_LIMIT_S)) line guest text left=$2
    declare -A ended=() met=()
    while [ "$left" -gt 0 ]; do
        if [ "$SECONDS" -ge "$deadline" ] || ! read -r -t $((deadline - SECONDS)) -u "$EVENTS" line; then
            fail "$suite" "$suite: still running after $limit s and $BOOT_LIMIT_S s to boot; stopped"
            return
        fi
        line=${line%$'\r'}
        printf '%s\n' "$line" >>"$log"
        guest=${line%%|*} text=${line#*|}
        case $text in
        'PASS '*) pass "$suite" "${text#PASS }" ;;
        'FAIL '*) fail "$suite" "${text#FAIL }" ;;
        'FIGURE '*)
            read -r _ key value <<<"$text"
            FIGURES["$key"]=$value
            say "  $key $value"
            ;;
        'HOST '*) obey "$guest" "$guests" "${text#HOST }" ;;
        'END '*)
            ended[$guest]=yes
            case ${text#END } in
            0) ;;
            137 | 143) fail "$suite" "$suite: not over on guest $guest after $limit s" ;;
            *) fail "$suite" "$suite: ended on guest $guest with status ${text#END }" ;;
            esac
            ;;
        'EXIT '*)
            left=$((left - 1))
            [ -n "${ended[$guest]:-}" ] || fail "$suite" "$suite: guest $guest went away before its end (${text#EXIT })"
            ;;
        esac
    done
}

# What a guest may ask of the host. It waits for the answer. Uses follow's `ended` and `met`.
#   cable GUEST off|on   the network card's link, seen by that guest as loss of carrier
#   power GUEST off      its power is cut: no shutdown, its memory is gone
#   meet NAME            answered when every guest has asked for the same meeting
obey() {
    local guest=$1 guests=$2 what other state
    read -r what other state <<<"$3"
    case $what in
    cable) monitor "$other" "set_link net0 $state" ;;
    power)
        # shellcheck disable=SC2034 # follow's
        ended[$other]=yes
        monitor "$other" quit
        ;;
    meet)
        met[$other]="${met[$other]:-} $guest"
        # shellcheck disable=SC2086 # a list of guests
        set -- ${met[$other]}
        [ $# -eq "$guests" ] || return 0
        for guest in "$@"; do answer "$guest" "done"; done
        return 0
        ;;
    *) answer "$guest" "unknown request: $3" && return 0 ;;
    esac
    [ "$what $other" = "power $guest" ] || answer "$guest" "done"
}

# Writes suites and figures as one JSON object; the figure "section.key" becomes {"section":{"key":..}}.
write_json() {
    {
        for suite in "${SUITES_RUN[@]}"; do echo "suites $suite {\"passed\":${PASSED[$suite]},\"failed\":${FAILED[$suite]}}"; done
        for key in "${!FIGURES[@]}"; do echo "${key%%.*} ${key#*.} ${FIGURES[$key]}"; done | sort
    } | awk '
        $1 != section { printf "%s\"%s\":{", (NR == 1 ? "{" : "},"), $1; section = $1; comma = "" }
        { printf "%s\"%s\":%s", comma, $2, ($3 ~ /^[-{0-9]/ ? $3 : "\"" $3 "\""); comma = "," }
        END { print "}}" }' >"$1"
}

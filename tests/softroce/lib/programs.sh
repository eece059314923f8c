# shellcheck shell=bash
# The programs under test, built as the suites' "# cargo:" lines say.

# Prints which of the packages that a suite's programs are built with this host lacks, as its
# "# packages:" line names them.
missing_packages() {
    local package
    for package in $(header "$1" packages); do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
    done
}

# Prints what a suite runs as DIR:NAME:FILE lines: test executables go to /tests under the name of
# their crate or file, programs and examples to /bin.
programs() {
    local words messages
    while read -r words; do
        [ -n "$words" ] || continue
        # shellcheck disable=SC2086 # words of a command
        messages=$(cd "$CHECKOUT" && cargo $words --locked --quiet --message-format=json-render-diagnostics) || return 1
        executables <<<"$messages"
    done < <(header "$1" cargo)
}

# Cargo's messages are one JSON object a line. A library's unit tests and its integration tests are
# told apart by the target's name, which stands at the end of the source's path.
executables() {
    sed -n '/"reason":"compiler-artifact"/!d
        s/.*"target":{"kind":\["\([a-z-]*\)".*"name":"\([^"]*\)".*"profile":{.*"test":\(true\|false\)}.*"executable":"\([^"]*\)".*/\3 \1 \2 \4/p' |
        while read -r test kind name file; do
            case $test in
            true) echo "tests:$name:$file" ;;
            false) case $kind in bin | example) echo "bin:$name:$file" ;; esac ;;
            esac
        done
}

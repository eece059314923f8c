# shellcheck shell=dash disable=SC3045 # busybox reads with a time limit
# What every suite may use. A suite is run by busybox's shell in the guest, with GUEST (a or b),
# ADDRESS, PEER (the other guest's address) and MTU set; whatever it prints reaches the host.

pass() { echo "PASS $1"; }
fail() { echo "FAIL $1: $2"; }
figure() { echo "FIGURE $1 $2"; }

# check NAME COMMAND...: passes when the command does; what it prints is in the log.
check() {
    check_name=$1
    shift
    if "$@"; then pass "$check_name"; else fail "$check_name" "'$*' ended with status $?"; fi
}

# same NAME FOUND EXPECTED
same() { if [ "$2" = "$3" ]; then pass "$1"; else fail "$1" "found '$2', expected '$3'"; fi; }

# until_true SECONDS COMMAND...: waits for a condition, looking a hundred times a second.
until_true() {
    looks=$(($1 * 100))
    shift
    while [ "$looks" -gt 0 ]; do
        "$@" >/dev/null 2>&1 && return 0
        usleep 10000
        looks=$((looks - 1))
    done
    return 1
}

# listening PORT: some process listens on this TCP port.
listening() { grep -qi ":$(printf %04X "$1") 0*:0000 0A" /proc/net/tcp /proc/net/tcp6; }
ended() { ! kill -0 "$1" 2>/dev/null; }

# What rxe counted on port 1: sent_pkts, rcvd_pkts, rdma_sends, retry_exceeded_err, link_downed, ...
counter() { cat "/sys/class/infiniband/rxe0/ports/1/hw_counters/$1"; }
# Packets that one send of so many bytes costs when both ends are on this device: its data in packets
# of the active MTU, and one acknowledgement. Lost or late packets cost more, never less.
packets_of() {
    packets_mtu=$(ibv_devinfo -d rxe0 | awk '$1 == "active_mtu:" { print $2 }')
    echo $((($1 + packets_mtu - 1) / packets_mtu + 1))
}

port_state() { cat /sys/class/infiniband/rxe0/ports/1/state; }
port_is() { [ "$(port_state)" = "$1" ]; }

# host REQUEST...: has the host do something (lib/report.sh, obey) and waits until it has.
host() {
    echo "HOST $*"
    host_answer=nothing
    read -r -t 60 host_answer <&3 && [ "$host_answer" = "done" ] && return 0
    fail "host $*" "answered '$host_answer'"
    return 1
}

# run_tests NAME ARGUMENTS...: runs the test executable /tests/NAME and reports each of its tests.
run_tests() {
    run_tests_name=$1
    shift
    { "/tests/$run_tests_name" --test-threads 1 "$@" 2>&1; echo "run_tests status $?"; } >/tmp/run-tests
    grep -v '^test .* \.\.\. ok$' /tmp/run-tests
    sed -n "s/^test \(.*\) \.\.\. ok$/PASS $run_tests_name::\1/p
        s/^test \(.*\) \.\.\. FAILED$/FAIL $run_tests_name::\1: see the log/p" /tmp/run-tests
    grep -q '^run_tests status 0$' /tmp/run-tests ||
        fail "$run_tests_name" "ended with $(tail -n 1 /tmp/run-tests)"
}

# Numbers on standard input, one a line.
smallest() { sort -n | head -n 1; }
median() { sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }

# perftest PROGRAM ARGUMENTS...: both ends in this guest, a core each. Prints the client's output.
# The server listens on TCP port 18515, ends by itself after its client, and has a time limit.
perftest() {
    timeout 30 taskset -c 0 "$@" -d rxe0 -x 1 -F >/tmp/perftest-server 2>&1 &
    perftest_server=$!
    until_true 10 listening 18515
    timeout 30 taskset -c 1 "$@" -d rxe0 -x 1 -F "$ADDRESS"
    perftest_status=$?
    wait $perftest_server || perftest_status=$?
    return $perftest_status
}

# The line of figures that perftest prints for a message size, as words.
perftest_line() { awk -v size="$1" '$1 == size { $1 = $1; print }'; }

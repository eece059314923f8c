# shellcheck shell=dash disable=SC3043 # busybox has local
# One end of a pair under load (transport/tests/verbs_peer.rs), as suites start it and look at it.
# Its name is that of its folder below /tmp.

# start_peer NAME ID INCARNATION LISTEN OTHER PEER-TIMEOUT-MS EXPIRY-MS: its process is $! then.
start_peer() {
    rm -rf "/tmp/${1:?}" && mkdir "/tmp/$1"
    PAGEWIRE_TEST_VERBS_PEER="$2 $3 $4 $5 $6 $7 /tmp/$1" \
        /tests/verbs_peer --exact peer_under_load --nocapture &
}

# seen NAME KEY: what the peer wrote down of it last.
seen() { awk -v key="$2" '$1 == key { print $2 }' "/tmp/$1/status"; }
seen_is() { [ "$(seen "$1" "$2")" = "$3" ]; }
seen_least() { [ "$(seen "$1" "$2")" -ge "$3" ]; }

# in_time MS LIMIT-MS: how late a limit may be seen is a matter of the guest's two slow cores.
in_time() { [ "$1" -ge 0 ] && [ "$1" -le $(($2 + 1000)) ]; }
uptime_ms() { awk '{ printf "%d\n", $1 * 1000 }' /proc/uptime; }

# more_traffic NAME: the peer takes more on every lane than was under way: a window is 16 at most.
more_traffic() { until_true 30 seen_least "$1" got_least $(($(seen "$1" got_least) + 50)); }

# carried_by_verbs NAME: messages leave by the device, as its counters say, each with a request of
# its own. On a loaded host queue pairs of healthy guests fail now and then: it is looked at again.
carried_by_verbs() {
    local look
    for look in 1 2 3; do
        until_true 30 seen_is "$1" on verbs || return 1
        counted_by_the_device "$1" && return 0
        echo "look $look: not all of $1 went over verbs"
    done
    return 1
}
# What was sent may still wait for credit, the windows of all lanes are 38 together.
counted_by_the_device() {
    local requests sent
    requests=$(counter rdma_sends) sent=$(seen "$1" sent)
    more_traffic "$1" || return 1
    sent=$(($(seen "$1" sent) - sent - 38))
    [ "$sent" -ge 200 ] || { echo "only $sent were sent"; return 1; }
    until_true 5 requests_least $((requests + sent)) && seen_is "$1" on verbs
}
requests_least() { [ "$(counter rdma_sends)" -ge "$1" ]; }

# quiet NAME: it sends nothing more, and all that it has sent is acknowledged.
quiet() {
    touch "/tmp/$1/quiet"
    until_true 5 seen_is "$1" quiet 1 && until_true 30 seen_is "$1" unacknowledged 0
}

# stop_peer NAME PROCESS: it ends, and has found no fault.
stop_peer() {
    touch "/tmp/$1/stop"
    wait "$2"
    peer_status=$?
    cat "/tmp/$1/status"
    same "$1_found_no_fault" "$peer_status" 0
}

# shellcheck shell=dash
# Two guests on one wire see each other by RDMA, and the host can cut the wire and the power. The
# verbs link's fault suites follow this example.
# guests: 2
# limit: 120

reachable() { ping -c 1 -W 1 "$PEER"; }
unreachable() { ! reachable; }
carrier_is() { [ "$(cat /sys/class/net/eth0/carrier)" = "$1" ]; }

# A listens and B connects; both print whether it went well.
pingpong() {
    if [ "$GUEST" = a ]; then
        timeout 40 ibv_rc_pingpong -d rxe0 -g 1 -n 20 -s 8192 >/tmp/pingpong 2>&1 &
        server=$!
        until_true 10 listening 18515
        host meet "$1-listening"
        wait "$server"
    else
        host meet "$1-listening"
        timeout 40 ibv_rc_pingpong -d rxe0 -g 1 -n 20 -s 8192 "$PEER" >/tmp/pingpong 2>&1
    fi
    pingpong_status=$?
    cat /tmp/pingpong
    same "$1_on_$GUEST" "$pingpong_status" 0
}

check "peer_answers_$GUEST" until_true 20 reachable
host meet wired
sent=$(counter sent_pkts)
pingpong "rdma_pingpong"
# 20 messages of two packets each way, and their acknowledgements.
check "packets_left_by_the_wire_$GUEST" [ $(($(counter sent_pkts) - sent)) -ge 40 ]

# The cable of A: A loses its carrier, B only its answers.
host meet before-cut
[ "$GUEST" = a ] && host cable a off
if [ "$GUEST" = a ]; then
    check "cable_cut_takes_the_carrier" until_true 10 carrier_is 0
    until_true 5 port_is "1: DOWN"
    same "cable_cut_takes_the_rdma_port" "$(port_state)" "1: DOWN"
else
    check "cable_cut_silences_the_peer" until_true 20 unreachable
    same "cable_cut_elsewhere_is_not_seen" "$(port_state)" "4: ACTIVE"
fi
host meet cut
[ "$GUEST" = a ] && host cable a on
check "cable_mended_peer_answers_$GUEST" until_true 30 reachable
until_true 5 port_is "4: ACTIVE"
pingpong "rdma_after_the_cut"

# The power of B: it does not get to say anything more.
host meet before-power
if [ "$GUEST" = b ]; then
    host power b off
    fail "power_cut" "guest b still runs"
else
    check "power_cut_silences_the_peer" until_true 20 unreachable
fi

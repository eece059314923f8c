# shellcheck shell=dash
# The two ends have different active MTUs: both use the lesser, and pages arrive whole in both
# directions.
# guests: 2
# limit: 120
# cargo: test --no-run -p pagewire-transport --test verbs_peer

# shellcheck source=tests/softroce/guest/peer.sh
. /lab/peer.sh

active_mtu() { ibv_devinfo -d rxe0 | awk '$1 == "active_mtu:" { print $2 }'; }
[ "$GUEST" = a ] || ip link set eth0 mtu 1500
[ "$GUEST" = a ] && mtu=4096 || mtu=1024
same "active_mtu_of_$GUEST" "$(active_mtu)" "$mtu"
host meet ready

[ "$GUEST" = a ] && id=1 || id=2
packets=$(counter sent_pkts) requests=$(counter rdma_sends)
start_peer "$GUEST" "$id" 1 "$ADDRESS:7400" "$PEER:7400" 10000 60000
peer_process=$!
check "messages_of_${GUEST}_go_over_the_device" carried_by_verbs "$GUEST"
check "pages_come_to_$GUEST" more_traffic "$GUEST"
host meet loaded
check "all_of_${GUEST}_is_acknowledged" quiet "$GUEST"
host meet quiet
# Two of five lanes carry pages of 8,320 bytes: 9 packets each, not 3.
packets=$(($(counter sent_pkts) - packets)) requests=$(($(counter rdma_sends) - requests))
pages=$(seen "$GUEST" pages_sent)
echo "$GUEST sent $packets packets for $requests requests, $pages pages among them"
check "${GUEST}_sends_pages" [ "$pages" -ge 50 ]
check "pages_of_${GUEST}_take_packets_of_the_lesser_mtu" [ "$packets" -ge $((9 * pages)) ]
same "${GUEST}_saw_nothing_wrong" "$(seen "$GUEST" bad_input)" 0
same "${GUEST}_kept_its_session" "$(seen "$GUEST" sessions_ended)" 0
sent=$(seen "$GUEST" sent) got=$(seen "$GUEST" got)
[ "$GUEST" = a ] && counted=$sent-$got || counted=$got-$sent
check "${GUEST}_counts_what_the_other_counts" host meet "sent-by-a-and-b-$counted"
stop_peer "$GUEST" "$peer_process"

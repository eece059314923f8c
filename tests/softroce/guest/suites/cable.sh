# shellcheck shell=dash
# The cable of guest a is pulled while both are under load, for longer than a queue pair tries again:
# messages go on over TCP when it is back, or over a link of its own, and climb back to verbs. Nothing
# is lost, doubled or reordered: each end checks the number of each message that it takes.
# guests: 2
# limit: 180
# cargo: test --no-run -p pagewire-transport --test verbs_peer

# shellcheck source=tests/softroce/guest/peer.sh
. /lab/peer.sh

[ "$GUEST" = a ] && id=1 || id=2
start_peer "$GUEST" "$id" 1 "$ADDRESS:7400" "$PEER:7400" 10000 60000
peer_process=$!
check "messages_of_${GUEST}_go_over_the_device" carried_by_verbs "$GUEST"

# Usage: without_cable NAME SECONDS. How long it is off is the scenario itself: nothing is waited for.
without_cable() {
    host meet "before-$1"
    if [ "$GUEST" = a ]; then
        echo "$1: cable off at $(uptime_ms) ms"
        host cable a off
        sleep "$2"
        host cable a on
        back_ms=$(uptime_ms)
        echo "$1: cable on at $back_ms ms"
    fi
    host meet "after-$1"
    check "$1: messages_go_on_to_$GUEST" more_traffic "$GUEST"
    [ "$GUEST" = b ] || figure "cable_off_$2_s.50_more_on_each_lane_after_ms" $(($(uptime_ms) - back_ms))
    check "$1: ${GUEST}_climbs_back_to_verbs" carried_by_verbs "$GUEST"
    [ "$GUEST" = b ] || figure "cable_off_$2_s.50_more_over_verbs_after_ms" $(($(uptime_ms) - back_ms))
}

without_cable off_for_less_than_the_peer_timeout 3
same "${GUEST}_kept_its_link" "$(seen "$GUEST" links_down)" 0
check "${GUEST}_fell_back_to_tcp" seen_least "$GUEST" falls_to_tcp 1
without_cable off_for_more_than_the_peer_timeout 14
check "${GUEST}_lost_its_link" seen_least "$GUEST" links_down 1
check "${GUEST}_moved_to_verbs_each_time" seen_least "$GUEST" moves_to_verbs 3

# Until then each needs what the other sends.
host meet before-quiet
check "all_of_${GUEST}_is_acknowledged" quiet "$GUEST"
host meet quiet
same "${GUEST}_saw_nothing_wrong" "$(seen "$GUEST" bad_input)" 0
same "${GUEST}_kept_its_session" "$(seen "$GUEST" sessions_ended)" 0
# What was under way may have arrived, and only its acknowledgement been lost: told, not judged.
echo "$GUEST sent again: $(seen "$GUEST" sent_again)"
# Guests that ask for the same meeting have counted the same.
sent=$(seen "$GUEST" sent) got=$(seen "$GUEST" got)
[ "$GUEST" = a ] && counted=$sent-$got || counted=$got-$sent
check "${GUEST}_counts_what_the_other_counts" host meet "sent-by-a-and-b-$counted"
stop_peer "$GUEST" "$peer_process"

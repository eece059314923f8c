# shellcheck shell=dash
# The power of guest b is cut while both are under load: a reports the link down in time, and hands
# everything back that b has not acknowledged.
# guests: 2
# limit: 120
# cargo: test --no-run -p pagewire-transport --test verbs_peer

# shellcheck source=tests/softroce/guest/peer.sh
. /lab/peer.sh
peer_timeout_ms=3000

[ "$GUEST" = a ] && id=1 || id=2
start_peer "$GUEST" "$id" 1 "$ADDRESS:7400" "$PEER:7400" "$peer_timeout_ms" 2000
peer_process=$!
check "messages_of_${GUEST}_go_over_the_device" carried_by_verbs "$GUEST"
host meet loaded
if [ "$GUEST" = b ]; then
    # The longest that a may take to ask for it.
    until_true 60 false
    fail "power_cut" "guest b still runs"
    exit
fi
check "traffic_flows_to_the_end" more_traffic a
downs=$(seen a links_down) cut_ms=$(uptime_ms)
host power b off
check "the_link_is_reported_down" until_true 30 seen_least a links_down $((downs + 1))
down_ms=$(($(seen a down_at_ms) - cut_ms))
check "within_its_peer_timeout" in_time "$down_ms" "$peer_timeout_ms"
figure power_cut.reported_down_ms "$down_ms"
check "the_session_ends" until_true 30 seen_is a sessions_ended 1
same "all_that_is_unacknowledged_is_handed_back" "$(seen a handed_back)" "$(seen a unacknowledged_at_end)"
check "under_load_something_was" seen_least a handed_back 1
# Those of receives, of what was sent, and of queue pairs whose other end is gone.
check "every_frame_is_back" until_true 10 seen_is a free_frames "$(seen a frames)"
stop_peer a "$peer_process"

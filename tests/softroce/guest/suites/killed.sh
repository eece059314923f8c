# shellcheck shell=dash
# A peer is killed under load, as kill -9 does it: the other reports it in time, hands back what was
# not acknowledged, and is on verbs again with its next life.
# limit: 120
# cargo: test --no-run -p pagewire-transport --test verbs_peer

# shellcheck source=tests/softroce/guest/peer.sh
. /lab/peer.sh
peer_timeout_ms=3000

start_peer survivor 1 1 "$ADDRESS:7401" "$ADDRESS:7402" "$peer_timeout_ms" 60000
survivor=$!
for life in 1 2 3; do
    start_peer "life_$life" 2 "$life" "$ADDRESS:7402" "$ADDRESS:7401" "$peer_timeout_ms" 60000
    mortal=$!
    check "life_$life: is_up" until_true 30 seen_is survivor incarnation "$life"
    check "life_$life: messages_go_over_the_device" carried_by_verbs survivor
    check "life_$life: and_come" more_traffic survivor
    same "life_$life: sessions_ended_before" "$(seen survivor sessions_ended)" $((life - 1))
    if [ "$life" -gt 1 ]; then
        same "life_$life: all_that_was_unacknowledged_is_handed_back" \
            "$(seen survivor handed_back)" "$(seen survivor unacknowledged_at_end)"
        check "life_$life: under_load_something_was" seen_least survivor handed_back 1
    fi
    [ "$life" -lt 3 ] || break
    downs=$(seen survivor links_down)
    killed_ms=$(uptime_ms)
    kill -9 "$mortal"
    check "life_$life: its_end_is_reported" until_true 30 seen_least survivor links_down $((downs + 1))
    down_ms=$(($(seen survivor down_at_ms) - killed_ms))
    check "life_$life: in_time" in_time "$down_ms" "$peer_timeout_ms"
    figure "killed.life_${life}_reported_down_ms" "$down_ms"
    wait "$mortal"
done
check "all_of_the_survivor_is_acknowledged" quiet survivor
check "all_of_its_peer_is_acknowledged" quiet life_3
same "the_peer_got_what_was_sent" "$(seen life_3 got)" "$(seen survivor sent)"
same "the_survivor_got_what_was_sent" "$(seen survivor got)" "$(seen life_3 sent)"
stop_peer life_3 "$mortal"
stop_peer survivor "$survivor"

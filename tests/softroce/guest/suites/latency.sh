# shellcheck shell=dash
# Ours over verbs beside perftest, with the same bytes on the wire, in rounds that take turns: a slow
# spell of the host falls on both. Spinning is judged, sleeping only told.
# limit: 900
# cargo: build --release --bin pagewire-bench

rounds=15
cat /sys/devices/system/clocksource/clocksource0/current_clocksource

# ours NAME ARGUMENTS...: one round of ours; appends each number of its JSON to /tmp/ours-NAME-KEY.
ours() {
    ours_name=$1
    shift
    if timeout 30 pagewire-bench verbs --device rxe0 --port 1 --gid-index 1 --json "$@" >/tmp/ours; then
        echo "round $round ours $ours_name $(cat /tmp/ours)"
        for ours_key in min_us p50_us messages_per_s; do
            sed -n "s/.*\"$ours_key\":\([0-9.]*\).*/\1/p" /tmp/ours >>"/tmp/ours-$ours_name-$ours_key"
        done
    else
        echo "round $round ours $ours_name ended with status $?"
    fi
}

# theirs NAME SIZE PROGRAM ARGUMENTS...: one round of perftest. It prints latencies in microseconds
# (least third, typical fifth), and rates in millions of messages a second, fifth.
theirs() {
    theirs_name=$1 theirs_size=$2
    shift 2
    if perftest "$@" -s "$theirs_size" >/tmp/theirs; then
        theirs_line=$(perftest_line "$theirs_size" </tmp/theirs)
        echo "round $round perftest $theirs_name $theirs_line"
        echo "$theirs_line" | awk '{ print $3 }' >>"/tmp/perftest-$theirs_name-min_us"
        echo "$theirs_line" | awk '{ print $5 }' >>"/tmp/perftest-$theirs_name-p50_us"
        echo "$theirs_line" | awk '{ print $5 * 1000000 }' >>"/tmp/perftest-$theirs_name-messages_per_s"
    else
        cat /tmp/theirs /tmp/perftest-server
    fi
}

# lost COMMAND...: a round, and what the device had to repeat in it.
lost() {
    lost_before=$(repeats)
    "$@"
    echo "repeated packets, receives that were not there: $lost_before, then $(repeats)"
}
repeats() { for repeats_of in duplicate_request completer_retry_err rcvd_rnr_err; do counter $repeats_of; done | tr '\n' ' '; }

ratio() { echo "$1 $2" | awk '{ printf "%.3f\n", $1 / $2 }'; }
at_most() { echo "$1 $2" | awk '{ exit !($1 > 0 && $1 <= $2) }'; }
rounds_of() { cat "/tmp/$1" 2>/dev/null | wc -l; }

# latency NAME LIMIT: figures of both sides; judged when there is a limit.
latency() {
    same "every_$1_round_ends" "$(rounds_of "ours-$1-min_us") $(rounds_of "perftest-$1-min_us")" \
        "$rounds $rounds"
    ours_min=$(smallest <"/tmp/ours-$1-min_us") theirs_min=$(smallest <"/tmp/perftest-$1-min_us")
    ratio=$(ratio "$ours_min" "$theirs_min")
    figure "$1.ours_min_us" "$ours_min"
    figure "$1.perftest_min_us" "$theirs_min"
    figure "$1.ratio" "$ratio"
    figure "$1.ours_p50_us" "$(median <"/tmp/ours-$1-p50_us")"
    figure "$1.perftest_p50_us" "$(median <"/tmp/perftest-$1-p50_us")"
    figure "$1.rounds" "$rounds"
    [ $# -lt 2 ] || check "$1_least_latency_at_most_$2_of_perftest" at_most "$ratio" "$2"
}

samples=300 pages=600 depth=32
sends=$(counter rdma_sends) sent=$(counter sent_pkts)
for round in $(seq "$rounds"); do
    ours send_64 --size 64 --samples $samples
    theirs send_64 112 ib_send_lat -n $samples
    ours page_8192 --size 8192 --samples $samples
    theirs page_8192 8320 ib_send_lat -n $samples
    lost ours page_rate --rate --samples $pages --depth $depth
    lost theirs page_rate 8320 ib_send_bw -n $pages -t $depth
    ours send_64_asleep --size 64 --sleep --samples $samples
    theirs send_64_asleep 112 ib_send_lat -n $samples -e
done

latency send_64 1.15
latency page_8192 1.15
same "every_page_rate_round_ends" \
    "$(rounds_of ours-page_rate-messages_per_s) $(rounds_of perftest-page_rate-messages_per_s)" \
    "$rounds $rounds"
# A rate is worth what its best round shows, as a latency is: what disturbs only ever slows down.
largest() { sort -n | tail -n 1; }
rate_ours=$(largest </tmp/ours-page_rate-messages_per_s)
rate_theirs=$(largest </tmp/perftest-page_rate-messages_per_s)
rate_ratio=$(ratio "$rate_ours" "$rate_theirs")
figure page_rate.ours "$rate_ours"
figure page_rate.perftest "$rate_theirs"
figure page_rate.ratio "$rate_ratio"
figure page_rate.ours_median "$(median </tmp/ours-page_rate-messages_per_s)"
figure page_rate.perftest_median "$(median </tmp/perftest-page_rate-messages_per_s)"
check "page_rate_at_least_0.9_of_perftest" at_most 0.9 "$rate_ratio"
latency send_64_asleep

# Both sides' messages went over the device: 2 * 3 round trips, and pages, of each.
messages=$((rounds * 2 * (3 * 2 * samples + pages)))
check "the_device_sent_all_messages" [ $(($(counter rdma_sends) - sends)) -ge "$messages" ]
check "the_device_sent_their_packets" [ $(($(counter sent_pkts) - sent)) -ge "$messages" ]

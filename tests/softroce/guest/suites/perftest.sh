# shellcheck shell=dash
# What perftest measures between two cores of one guest: the yardstick for the verbs link. The three
# measurements take turns, so that a slow spell of the host falls on all of them.
# limit: 240

rounds=5
for round in $(seq "$rounds"); do
    for size in 64 8192; do
        if perftest ib_send_lat -s "$size" -n 3000 >/tmp/out; then
            line=$(perftest_line "$size" </tmp/out)
            echo "round $round send_lat $line"
            echo "$line" | awk '{ print $3 }' >>"/tmp/min_$size"
            echo "$line" | awk '{ print $5 }' >>"/tmp/p50_$size"
        else
            cat /tmp/out /tmp/perftest-server
        fi
    done
    if perftest ib_send_bw -s 8192 -n 3000 >/tmp/out; then
        line=$(perftest_line 8192 </tmp/out)
        echo "round $round send_bw $line"
        echo "$line" | awk '{ print $5 * 1000000 }' >>/tmp/rate
    else
        cat /tmp/out /tmp/perftest-server
    fi
done

same "every_latency_round_ends" "$(cat /tmp/min_64 /tmp/min_8192 | wc -l)" $((rounds * 2))
same "every_rate_round_ends" "$(wc -l </tmp/rate)" "$rounds"
figure send_64.perftest_min_us "$(smallest </tmp/min_64)"
figure send_64.perftest_p50_us "$(median </tmp/p50_64)"
figure page_8192.perftest_min_us "$(smallest </tmp/min_8192)"
figure page_8192.perftest_p50_us "$(median </tmp/p50_8192)"
figure page_rate.perftest "$(median </tmp/rate)"

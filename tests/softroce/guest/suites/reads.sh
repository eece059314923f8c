# shellcheck shell=dash
# One-sided reads as RDMA READs: the device's packets move, the owner's messages do not; bounds, ends
# that have not turned them on, links that fail meanwhile; regions with margins, and closed ones; keys
# of other queue pairs.
# limit: 180
# cargo: test --no-run -p pagewire-transport --test reads --test read_regions --test verbs_keys

export PAGEWIRE_TEST_VERBS=rxe0/1/1
packets=$(counter sent_pkts)
run_tests reads
run_tests read_regions
run_tests verbs_keys
# A read of a page is a question and a page in two packets; the tests make some hundreds.
check "reads_went_over_the_device" until_true 5 sh -c \
    "[ \$((\$(cat /sys/class/infiniband/rxe0/ports/1/hw_counters/sent_pkts) - $packets)) -ge 900 ]"

# shellcheck shell=dash
# The transport's tests with every message over verbs: TCP carries only what is about the link.
# limit: 480
# cargo: test --no-run -p pagewire-transport --test messages --test lanes --test transfer --test quiet --test wakeup --test allocations

export PAGEWIRE_TEST_VERBS=rxe0/1/1
before=$(counter rdma_sends)
for program in messages lanes transfer quiet wakeup allocations; do
    run_tests "$program"
    after=$(counter rdma_sends)
    check "${program}_went_over_the_device" [ "$after" -gt "$before" ]
    before=$after
done

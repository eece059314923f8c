# shellcheck shell=dash
# What holds over verbs only: the link that messages are on, what they cost, and failures under load.
# limit: 180
# cargo: test --no-run -p pagewire-transport --test verbs

export PAGEWIRE_TEST_VERBS=rxe0/1/1
run_tests verbs

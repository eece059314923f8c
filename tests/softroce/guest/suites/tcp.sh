# shellcheck shell=dash
# The demo and a test executable over TCP: what the lab runs of Pagewire, before verbs come into it.
# limit: 90
# cargo: build --release --bin pagewire
# cargo: test --no-run -p pagewire-transport --test handshake

pagewire demo --json --seconds 3 >/tmp/demo.json
same "demo_over_tcp_ends_well" $? 0
cat /tmp/demo.json
check "demo_over_tcp_is_verified" grep -q '"verified":true' /tmp/demo.json

run_tests handshake

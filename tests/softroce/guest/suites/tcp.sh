# The demo over TCP: shows that the lab runs Pagewire's programs, before verbs come into it.
# limit: 60
# cargo: build --release --bin pagewire

pagewire demo --json --seconds 3 >/tmp/demo.json
same "demo_over_tcp_ends_well" $? 0
cat /tmp/demo.json
check "demo_over_tcp_is_verified" grep -q '"verified":true' /tmp/demo.json

# shellcheck shell=dash
# The demo over verbs, with the device's own counters for a witness; what doctor says of the device;
# and the words for a device or a GID that is not there.
# limit: 180
# cargo: build --release --bin pagewire

# number FILE KEY: a number of a line of JSON, by the first key of that name.
number() { sed -n "s/.*\"$2\":\([0-9]*\).*/\1/p" "$1" | head -n 1; }

# refused NAME WORD ARGUMENTS...: the demo says WORD in its only line, ends with 1, and soon.
refused() {
    refused_name=$1 refused_word=$2
    shift 2
    timeout 20 pagewire demo --json --seconds 1 "$@" >/tmp/out 2>/tmp/refused
    same "${refused_name}_ends_with_1" $? 1
    cat /tmp/refused
    same "${refused_name}_is_one_line" "$(wc -l </tmp/refused)" 1
    check "${refused_name}_says_what" grep -q -- "$refused_word" /tmp/refused
}

until_true 5 port_is "4: ACTIVE"

packets=$(counter sent_pkts)
sends=$(counter rdma_sends)
pagewire demo --transport verbs --json --seconds 5 >/tmp/demo.json
same "demo_over_verbs_ends_well" $? 0
cat /tmp/demo.json
packets=$(($(counter sent_pkts) - packets))
sends=$(($(counter rdma_sends) - sends))
check "demo_over_verbs_is_verified" grep -q '"verified":true' /tmp/demo.json
check "demo_links_are_on_verbs" grep -q '"asked":"verbs","verbs":3,"tcp":0,"down":0,"falls_to_tcp":0' /tmp/demo.json
pages=$(number /tmp/demo.json pages_shipped) bytes=$(number /tmp/demo.json bytes_shipped)
echo "$pages pages, $bytes bytes; the device: $sends sends, $packets packets"
check "demo_shipped_pages" [ "$pages" -gt 0 ]
check "device_sent_every_page" [ "$sends" -ge "$pages" ]
# Whatever the division into packets: none has more than 4096 bytes of data, and each page is answered.
check "device_sent_every_byte" [ "$packets" -ge $((bytes / 4096)) ]

before=$(counter rdma_sends)
pagewire demo --json --seconds 1 >/tmp/auto.json
same "demo_on_loopback_ends_well" $? 0
cat /tmp/auto.json
check "auto_on_loopback_is_tcp_for_want_of_a_port" grep -q '"verbs":0,"tcp":3,.*"no-port"' /tmp/auto.json
same "auto_on_loopback_leaves_the_device_alone" "$(counter rdma_sends)" "$before"
pagewire demo --json --seconds 1 --rdma-device rxe0 --rdma-gid-index 1 >/tmp/named.json
same "demo_with_a_named_device_ends_well" $? 0
cat /tmp/named.json
check "auto_takes_a_named_device" grep -q '"asked":"auto","verbs":3,"tcp":0' /tmp/named.json

mkdir -p /tmp/storage
cat >/tmp/node.toml <<EOF
cluster = 1
instance = 0
listen = "$ADDRESS:7400"
storage = "/tmp/storage"
huge_pages = false
EOF
pagewire doctor --config /tmp/node.toml >/tmp/doctor
cat /tmp/doctor
check "doctor_names_the_port" grep -q "RDMA port rxe0/1: ACTIVE, Ethernet" /tmp/doctor
check "doctor_says_the_active_mtu" grep -q "path MTU of rxe0/1: 4096" /tmp/doctor
check "doctor_says_the_gid" grep -q "GID 1 of rxe0/1: $ADDRESS (RoCE v2, eth0)" /tmp/doctor
check "doctor_says_what_auto_does" grep -q 'transport = "auto": verbs on rxe0/1' /tmp/doctor
sed -i 's/^listen.*/listen = "127.0.0.1:7400"/' /tmp/node.toml
pagewire doctor --config /tmp/node.toml >/tmp/doctor
grep transport /tmp/doctor
check "doctor_says_why_not_on_loopback" grep -q 'transport = "auto": TCP: no-port' /tmp/doctor

refused gid_that_is_not_there "no GID with index 77" --transport verbs --rdma-gid-index 77
refused device_that_is_not_there "no RDMA device mlx5_0, found rxe0" --transport verbs --rdma-device mlx5_0

rdma link delete rxe0
refused deleted_device "no RDMA device found" --transport verbs
refused deleted_device_by_name "no RDMA device found" --transport verbs --rdma-device rxe0
echo 'transport = "verbs"' >>/tmp/node.toml
timeout 20 pagewire node --config /tmp/node.toml >/tmp/out 2>/tmp/refused
same "node_without_a_device_ends_with_1" $? 1
cat /tmp/refused
same "node_without_a_device_is_one_line" "$(wc -l </tmp/refused)" 1
check "node_without_a_device_says_what_to_do" grep -q "demands verbs.*rdma link add" /tmp/refused

# shellcheck shell=dash
# The soft-RoCE device is there and is what the verbs link asks for.
# limit: 30

ibv_devinfo -d rxe0 -v | grep -E 'state|active_mtu|GID|max_qp:|max_sge:|max_cqe|max_mr_size|max_srq:'
until_true 5 port_is "4: ACTIVE"
same "port_is_active" "$(port_state)" "4: ACTIVE"
same "gid_1_is_roce_v2" "$(cat /sys/class/infiniband/rxe0/ports/1/gid_attrs/types/1)" "RoCE v2"
same "gid_1_is_the_ipv4_address" "$(cat /sys/class/infiniband/rxe0/ports/1/gids/1)" \
    "0000:0000:0000:0000:0000:ffff:$(echo "$ADDRESS" | awk -F. '{ printf "%02x%02x:%02x%02x", $1, $2, $3, $4 }')"

# A card MTU of 9000 leaves room for 4096 bytes of payload a packet, 1500 for 1024.
active_mtu() { ibv_devinfo -d rxe0 | awk '$1 == "active_mtu:" { print $2 }'; }
same "mtu_9000_gives_4096" "$(active_mtu)" 4096
ip link set eth0 mtu 1500
same "mtu_1500_gives_1024" "$(active_mtu)" 1024
ip link set eth0 mtu 9000

rdma statistic show link rxe0/1
check "counters_by_rdma_statistic" sh -c 'rdma statistic show link rxe0/1 | grep -q "sent_pkts [0-9]"'
before=$(counter sent_pkts)
ibv_rc_pingpong -d rxe0 -g 1 -n 100 -s 64 >/dev/null &
until_true 5 listening 18515
check "pingpong_in_one_guest" ibv_rc_pingpong -d rxe0 -g 1 -n 100 -s 64 "$ADDRESS"
wait
# 100 messages each way, both ends are here.
check "counters_move_by_what_is_sent" [ $(($(counter sent_pkts) - before)) -ge $((200 * $(packets_of 64))) ]

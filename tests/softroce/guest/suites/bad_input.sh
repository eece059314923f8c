# shellcheck shell=dash
# Bad input over verbs: keys and addresses beside a region, peers that send more than their credit, a
# GID index that is not there, too little memory that may be locked, verbs demanded where it is not.
# limit: 240
# cargo: test --no-run -p pagewire-transport --test verbs_bad_input --test verbs_absent
# cargo: build --release --bin pagewire

export PAGEWIRE_TEST_VERBS=rxe0/1/1
# Another user than root, whom a limit on locked memory binds, may come so far.
chmod 755 /
chmod 666 /dev/infiniband/uverbs0
run_tests verbs_bad_input
run_tests verbs_absent

# What `pagewire node` says whose user may lock 256 KiB.
mkdir -p /tmp/storage
cat >/tmp/node.toml <<TOML
cluster = 1
instance = 0
listen = "$ADDRESS:7400"
storage = "/tmp/storage"
transport = "verbs"
TOML
chmod 777 /tmp /tmp/storage
echo 'nobody:x:65534:65534::/tmp:/bin/sh' >/etc/passwd
timeout 20 su nobody -c 'ulimit -l 256; exec pagewire node --config /tmp/node.toml' >/tmp/out 2>/tmp/refused
same "node_that_may_lock_too_little_ends_with_1" $? 1
cat /tmp/refused
same "node_that_may_lock_too_little_is_one_line" "$(wc -l </tmp/refused)" 1
check "node_that_may_lock_too_little_says_what_to_do" grep -q "may lock 262144 bytes.*ulimit -l.*LimitMEMLOCK" /tmp/refused
rdma link delete rxe0
unset PAGEWIRE_TEST_VERBS
run_tests verbs_absent

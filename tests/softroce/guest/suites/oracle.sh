# shellcheck shell=dash
# Two other bindings of libibverbs say whether ours is right: layouts by rdma-sys; devices, addresses
# and messages there and back by ibverbs.
# limit: 60
# packages: libibverbs-dev librdmacm-dev libnl-3-dev libnl-route-3-dev pkg-config cmake libclang-14-dev
# cargo: build --manifest-path tests/softroce/oracle/Cargo.toml

before=$(counter rdma_sends)
pagewire-softroce-oracle "$ADDRESS"
same "oracle_ends_well" $? 0
# 50 messages each way.
sent_by_the_device() { [ $(($(counter rdma_sends) - before)) -ge 100 ]; }
check "oracle_went_over_the_device" until_true 5 sent_by_the_device

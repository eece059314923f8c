# shellcheck shell=bash
# Guests are QEMU processes with software emulation. Each speaks to the host over a pair of pipes
# behind a virtio-serial port: it writes lines "GUEST|text", all guests into one pipe ($EVENTS), and
# reads the host's answers from one of its own. A second pair is QEMU's monitor: cables and power.

QEMU=qemu-system-x86_64

# Usage: open_channels GUEST... ; sets EVENTS, the descriptor that all guests' lines arrive on.
open_channels() {
    local guest
    rm -rf "$WORK/channels"
    mkdir "$WORK/channels"
    mkfifo "$WORK/channels/events"
    exec {EVENTS}<>"$WORK/channels/events"
    for guest in "$@"; do
        mkfifo "$WORK/channels/$guest.report.in" "$WORK/channels/$guest.monitor.in" "$WORK/channels/$guest.monitor.out"
        ln -s events "$WORK/channels/$guest.report.out"
    done
}

close_channels() { exec {EVENTS}<&-; }

# One guest alone has a network without an outside. Two share a wire of datagrams between two local
# sockets: it knows no connection, so either end may vanish and come back.
network_of() {
    local guest=$1 guests=$2 other
    if [ "$guests" -eq 1 ]; then
        echo "user,id=net0,restrict=on"
        return
    fi
    [ "$guest" = a ] && other=b || other=a
    echo "dgram,id=net0,local.type=unix,local.path=$WORK/channels/$guest.wire,remote.type=unix,remote.path=$WORK/channels/$other.wire"
}

# Usage: start_guest GUEST GUESTS LIMIT-SECONDS IMAGE LOGS KERNEL-WORDS
# QEMU runs under timeout(1), so that it ends even if this script is killed. A watcher tells of its end
# as of other events, and stops it when it is told to stop itself.
start_guest() {
    local guest=$1 guests=$2 limit=$3 image=$4 logs=$5 words=$6 channels=$WORK/channels mac=52:54:00:00:00:01
    [ "$guest" = b ] && mac=52:54:00:00:00:02
    local -a command=(timeout -k 5 "$limit" "$QEMU"
        -accel "${PAGEWIRE_SOFTROCE_ACCEL:-tcg,thread=multi}" -cpu max -smp 2
        -m "${PAGEWIRE_SOFTROCE_MEMORY:-1024}"
        -nodefaults -display none -no-reboot
        -kernel "$UNPACKED/boot/vmlinuz-$KERNEL" -initrd "$image"
        -append "console=ttyS0 quiet panic=-1 tsc=reliable lab.guest=$guest $words"
        -serial "file:$logs/console-$guest.log"
        -netdev "$(network_of "$guest" "$guests")"
        -device "virtio-net-pci,netdev=net0,mac=$mac,romfile="
        -chardev "pipe,id=monitor,path=$channels/$guest.monitor" -mon "chardev=monitor,mode=readline"
        -device virtio-serial-pci -chardev "pipe,id=report,path=$channels/$guest.report"
        -device "virtserialport,chardev=report,name=lab")
    (
        "${command[@]}" </dev/null >"$logs/qemu-$guest.log" 2>&1 &
        trap 'kill $!; wait $!; exit' TERM
        status=0
        wait $! || status=$?
        echo "$guest|EXIT $status" >"$channels/events"
    ) 2>/dev/null &
    WATCHERS+=($!)
}

monitor() { echo "$2" >"$WORK/channels/$1.monitor.in"; }
answer() { echo "$2" >"$WORK/channels/$1.report.in"; }

# Stops what is left of the guests; those whose watchers have ended are gone already.
stop_guests() {
    local watcher
    for watcher in "${WATCHERS[@]}"; do kill "$watcher" 2>/dev/null || true; done
    for watcher in "${WATCHERS[@]}"; do wait "$watcher" 2>/dev/null || true; done
    WATCHERS=()
}

# shellcheck shell=bash
# The guest's file system: two cpio archives that the kernel unpacks one over the other. The base
# (kernel modules, busybox, the RDMA programs) is kept beside the packages it was made from; what is
# under test is put together anew for every boot.

GUEST_MODULES=(virtio_pci virtio_net virtio_console crc32_generic ib_uverbs rdma_cm rdma_ucm rdma_rxe)
GUEST_PROGRAMS=(usr/bin/rdma usr/sbin/rdma sbin/rdma usr/bin/ip bin/ip sbin/ip usr/bin/ibv_devinfo
    usr/bin/ibv_rc_pingpong usr/bin/ib_send_lat usr/bin/ib_send_bw usr/bin/ib_write_lat
    usr/bin/ib_write_bw usr/bin/ib_read_lat usr/bin/ib_read_bw)

busybox() { "$UNPACKED/bin/busybox" "$@"; }

# Packs directory $1 into archive $2, every file owned by root.
pack() { (cd "$1" && find . | sort | busybox cpio -o -H newc -R 0:0 2>/dev/null) >"$2"; }

# Copies a program into a directory of the guest's tree, and the libraries that it is linked with to
# where it looks for them. Usage: add_program TREE FILE DIR NAME
add_program() {
    local tree=$1 file=$2 dir=$3 name=$4 library wanted
    install -D -m 755 "$file" "$tree/$dir/$name" || return 1
    # Symbols are of no use in the guest and cost it memory.
    if command -v strip >/dev/null; then strip --strip-debug "$tree/$dir/$name" 2>/dev/null || true; fi
    wanted=$(linked_libraries "$file") || return 1
    for library in $wanted; do
        add_library "$tree" "$library"
    done
}

# Prints the paths of the libraries a program is linked with: the unpacked ones first, then the host's.
linked_libraries() {
    local found places=$UNPACKED/usr/lib/x86_64-linux-gnu:$UNPACKED/lib/x86_64-linux-gnu
    found=$(LD_LIBRARY_PATH=$places ldd "$1" 2>/dev/null) || return 0 # linked statically
    if grep 'not found' <<<"$found" >&2; then
        say "a library of $1 is neither in the packages nor on this machine"
        return 1
    fi
    awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' <<<"$found"
}

# The loader stays where programs name it; all else goes to /lib, which the guest's environment names.
add_library() {
    local tree=$1 library=$2
    case $library in
    /lib64/ld-*) install -D -m 755 "$(readlink -f "$library")" "$tree$library" ;;
    *) [ -e "$tree/lib/${library##*/}" ] || install -D -m 755 "$(readlink -f "$library")" "$tree/lib/${library##*/}" ;;
    esac
}

# Prints the files of the modules and of all they depend on, below /lib/modules/VERSION.
module_files() {
    awk -v wanted="${GUEST_MODULES[*]}" '
        function name(file) { sub(/.*\//, "", file); sub(/\.ko.*/, "", file); gsub(/-/, "_", file); return file }
        function take(file,    parts, n, i) {
            if (file in taken) return
            taken[file] = 1; print file
            n = split(needs[file], parts, " ")
            for (i = 1; i <= n; i++) take(parts[i])
        }
        { file = $1; sub(/:$/, "", file); $1 = ""; needs[file] = $0; by_name[name(file)] = file }
        END {
            n = split(wanted, list, " ")
            for (i = 1; i <= n; i++) if (list[i] in by_name) take(by_name[list[i]])
        }' "$1"
}

add_modules() {
    local tree=$1 modules=lib/modules/$KERNEL file
    [ -e "$UNPACKED/$modules/modules.dep" ] || busybox depmod -b "$UNPACKED" "$KERNEL" || return 1
    for file in $(module_files "$UNPACKED/$modules/modules.dep"); do
        install -D -m 644 "$UNPACKED/$modules/${file#/"$modules"/}" "$tree/$modules/${file#/"$modules"/}"
    done
    # Some of them are built into the kernel; modprobe has to know that.
    cp "$UNPACKED/$modules"/modules.{order,builtin}* "$tree/$modules/"
    busybox depmod -b "$tree" "$KERNEL"
}

add_providers() {
    local tree=$1 provider
    provider=$(find "$UNPACKED" -name 'librxe-rdmav*.so' | head -n 1)
    [ -n "$provider" ] || { say "no rxe provider in ibverbs-providers"; return 1; }
    # libibverbs looks for its providers by the path that it was built with.
    install -D -m 755 "$provider" "$tree${provider#"$UNPACKED"}"
    install -D -m 644 "$UNPACKED/etc/libibverbs.d/rxe.driver" "$tree/etc/libibverbs.d/rxe.driver"
}

# glibc opens this library by name when a thread is cancelled or ends itself; no program names it.
add_unwinder() {
    local file
    file=$(find /lib/x86_64-linux-gnu /usr/lib64 /usr/lib -maxdepth 1 -name libgcc_s.so.1 2>/dev/null | head -n 1)
    [ -z "$file" ] || add_library "$1" "$file"
}

# Sets BASE_IMAGE.
build_base() {
    local part program key
    key=$(cat "$LAB/lib/image.sh" <(ldd --version) | sha256sum | cut -c1-16)
    BASE_IMAGE=$UNPACKED.base-$key.cpio
    [ -e "$BASE_IMAGE" ] && return
    say "building the base image"
    part=$(mktemp -d "$CACHE/base.XXXXXX")
    mkdir -p "$part"/{bin,sbin,dev,proc,sys,tmp,run,tests,etc,root}
    install -m 755 "$UNPACKED/bin/busybox" "$part/bin/busybox"
    for program in "${GUEST_PROGRAMS[@]}"; do
        [ -f "$UNPACKED/$program" ] || continue
        add_program "$part" "$UNPACKED/$program" bin "${program##*/}"
    done
    add_modules "$part"
    add_providers "$part"
    add_unwinder "$part"
    pack "$part" "$part.cpio"
    mv "$part.cpio" "$BASE_IMAGE"
    rm -rf "$part"
}

# What one boot runs: init, the suites, the programs. Usage: build_image IMAGE PROGRAM...
# where a program is DIR:NAME:FILE.
build_image() {
    local image=$1 part program dir name file
    shift
    part=$(mktemp -d "$WORK/image.XXXXXX")
    mkdir -p "$part/lab/suites"
    install -m 755 "$LAB/guest/init" "$part/init" &&
        install -m 644 "$LAB"/guest/*.sh "$part/lab/" &&
        cp "$LAB"/guest/suites/*.sh "$part/lab/suites/" || return 1
    for program in "$@"; do
        IFS=: read -r dir name file <<<"$program"
        add_program "$part" "$file" "$dir" "$name" || return 1
    done
    pack "$part" "$part.cpio" && cat "$BASE_IMAGE" "$part.cpio" >"$image" || return 1
    rm -rf "$part" "$part.cpio"
}

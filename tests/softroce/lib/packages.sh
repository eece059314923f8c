# shellcheck shell=bash
# What the guest is made of: packages of the distribution, downloaded and unpacked, never installed.
# A set of packages is kept under a name made from their versions, so a new version is a new set.

# Programs and providers by name; the libraries they need are found by their dependencies.
GUEST_PACKAGES=(busybox-static iproute2 ibverbs-utils ibverbs-providers perftest)
KERNEL_META=linux-image-amd64

apt_quiet() { apt-get -qq -o APT::Sandbox::User="$(id -un)" "$@"; }

# Prints the package that the kernel's meta package depends on, or fails.
kernel_package() {
    apt-cache depends "$KERNEL_META" 2>/dev/null | awk '/Depends: linux-image-/ { print $2; exit }' | grep .
}

# Prints the libraries that the guest's packages need, one a line. The C library and the compiler's
# are the host's own: the programs under test are linked with them.
library_packages() {
    apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances "${GUEST_PACKAGES[@]}" 2>/dev/null |
        grep -E '^lib' | grep -vE '^(libc6|libgcc-s1|libcrypt1|libpam|libsemanage|libnewt|libslang)' |
        sort -u
}

# Unpacks everything under $CACHE and sets UNPACKED (the tree) and KERNEL (the kernel's version).
fetch_packages() {
    local kernel names wanted key
    kernel=$(kernel_package) ||
        skip "no kernel to boot: package $KERNEL_META is unknown here; 'apt-get update' as root makes it known"
    mapfile -t names < <(printf '%s\n' "$kernel" "${GUEST_PACKAGES[@]}"; library_packages)
    wanted=$(apt-cache show --no-all-versions "${names[@]}" 2>/dev/null |
        awk '/^Package: / { name = $2 } /^Version: / { print name "=" $2 }' | sort -u)
    key=$(sha256sum <<<"$wanted" | cut -c1-16)
    UNPACKED=$CACHE/packages-$key
    # shellcheck disable=SC2034 # read in image.sh and guest.sh
    KERNEL=${kernel#linux-image-}
    [ -d "$UNPACKED" ] && return
    unpack_packages "$UNPACKED" "$wanted" ||
        skip "the packages of the guest cannot be downloaded ($kernel, ${GUEST_PACKAGES[*]}); 'apt-get update' as root may help"
}

# Into a directory that gets its name only when complete, so that a broken run leaves no half set.
unpack_packages() {
    local tree=$1 wanted=$2 part deb
    part=$(mktemp -d "$CACHE/unpack.XXXXXX")
    say "downloading $(wc -l <<<"$wanted") packages"
    mkdir "$part/debs" "$part/tree"
    # shellcheck disable=SC2086 # a list of words without blanks in them
    (cd "$part/debs" && apt_quiet download $wanted >&2) || { rm -rf "$part"; return 1; }
    for deb in "$part"/debs/*.deb; do
        dpkg -x "$deb" "$part/tree" || { rm -rf "$part"; return 1; }
    done
    # Sets of other versions have served; a run beside this one may have been first with this set.
    rm -rf "$CACHE"/packages-*
    mv -T "$part/tree" "$tree" || [ -d "$tree" ] || return 1
    rm -rf "$part"
}

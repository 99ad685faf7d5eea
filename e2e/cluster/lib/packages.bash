# shellcheck shell=bash disable=SC2034,SC2154
# Debian packages and toolchains. Missing packages are installed if the caller is root, or else listed.

cluster_packages=(runc containernetworking-plugins iptables conntrack ipset ethtool socat iproute2
	procps util-linux fuse3 ca-certificates)
image_packages=(mmdebstrap binutils)
# The shells that the protocol is tested with, programs that start a command as another user, the SSH server of
# repositories, programs that read archives and create file systems, and strace, which makes system calls fail.
test_packages=(dash bash busybox-static sudo util-linux fuse3 openssh-server openssh-client curl tar gzip lz4 zstd
	e2fsprogs xfsprogs btrfs-progs dosfstools exfat-fuse exfatprogs strace)

# require_packages PACKAGE...
require_packages() {
	local package log=$logs/packages.log
	local missing=()
	for package; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		fail 2 "Packages are missing. As root: apt-get install ${missing[*]}"
	fi
	report "installing ${missing[*]}"
	mkdir -p "$logs"
	# The update may fail for an unrelated package source; the install fails if that matters.
	{
		apt-get update -qq || true
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
	} </dev/null >"$log" 2>&1 || fail_with_log "$log" "apt-get could not install ${missing[*]}."
}

require_go() {
	command -v go >/dev/null || fail 2 "Go is missing (1.26 or newer)." \
		"Unpack a release of https://go.dev/dl/ in /usr/local, then: export PATH=/usr/local/go/bin:\$PATH"
}

require_node() {
	command -v npm >/dev/null || fail 2 "Node.js is missing (20 or newer)." "Get it with: apt-get install nodejs npm"
}

require_pip() {
	python3 -m pip --version >/dev/null 2>&1 || fail 2 "Python's pip is missing." "Get it with: apt-get install python3-pip"
}

require_rust() {
	command -v cargo >/dev/null || fail 2 "Rust is missing (1.91 or newer)." \
		"Get it with: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
}

require_c_compiler() {
	command -v cc >/dev/null || fail 2 "A C compiler is missing." "Get it with: apt-get install gcc libc6-dev"
}

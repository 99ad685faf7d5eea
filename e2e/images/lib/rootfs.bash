# shellcheck shell=bash disable=SC2154
# Builds root file systems from Debian packages of the package sources of this machine, and keeps them
# in the cache under a hash of their recipe.

suite=bookworm

# Files that no test needs.
slim=(--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*'
	--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*')

# Prints the Debian package sources of this machine as lines of a sources.list for the suite.
debian_sources() {
	local found
	found=$(apt-get indextargets --format "deb \$(REPO_URI) \$(RELEASE) \$(COMPONENT)" \
		'Identifier: Packages' 'Origin: Debian' | grep -E " $suite(-updates|-security)? " || true)
	# On a machine with another release, uses the same archive with this suite.
	[ -n "$found" ] || found=$(apt-get indextargets --format "deb \$(REPO_URI) $suite main" \
		'Identifier: Packages' 'Origin: Debian' 'Component: main' | head -n 1)
	[ -n "$found" ] || fail 2 "This machine has no Debian package source; images are made of Debian packages." \
		"If it should have one: apt-get update"
	sort -u <<<"$found"
}

# make_rootfs NAME VARIANT PACKAGES OPTION...: builds with these options of mmdebstrap, and sets $rootfs to the tar file.
make_rootfs() {
	local name=$1 variant=$2 packages=$3 key log=$logs/rootfs-$1.log
	shift 3
	key=$(printf '%s\n' "$suite" "$architecture" "$variant" "$packages" "${slim[@]}" "$@" | sha256sum | cut -c1-12)
	rootfs=$cache/images/rootfs-$name-$key.tar
	[ ! -s "$rootfs" ] || return 0
	require_packages "${image_packages[@]}"
	mkdir -p "$cache/images" "$logs"
	report "making the root file system of $name from Debian packages (about a minute, once)"
	debian_sources >"$cache/images/sources-$name.list"
	rm -f "$cache/images/.making-$name.tar"
	mmdebstrap --variant="$variant" --include="$packages" "${slim[@]}" "$@" \
		"$suite" "$cache/images/.making-$name.tar" "$cache/images/sources-$name.list" </dev/null >"$log" 2>&1 ||
		fail_with_log "$log" "Making the root file system of $name failed."
	mv "$cache/images/.making-$name.tar" "$rootfs"
	report "made the root file system of $name"
}

# shellcheck shell=bash disable=SC2016,SC2034,SC2154
# The contents of the images. A recipe fills $folder, which becomes the top layer, may set $rootfs, a
# root file system for the layer below, and sets $config, the configuration of the image.

path_variable='"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]'

add_program() { install -D -m 0755 "$1" "$folder/usr/local/bin/${2:-$(basename "$1")}"; }

# Adds users to images without Debian, so that containers can run as one of them.
add_users() {
	mkdir -p "$folder/etc" "$folder/root"
	mkdir -m 1777 "$folder/tmp"
	printf '%s\n' root:x:0:0:root:/root:/bin/sh nobody:x:65534:65534:nobody:/:/bin/sh >"$folder/etc/passwd"
	printf '%s\n' root:x:0: nogroup:x:65534: >"$folder/etc/group"
}

# Databases get a fixed user id in every image, instead of the one that Debian would choose.
fixed_user() {
	printf '%s' "--essential-hook=for file in passwd group shadow; do case \$file in " \
		"passwd) echo '$1:x:999:999::$2:/bin/bash';; group) echo '$1:x:999:';; " \
		"shadow) echo '$1:!:19000::::::';; esac >>\"\$1/etc/\$file\"; done"
}

# The process that keeps a pod's namespaces; it sleeps and reaps zombies.
recipe_pause() {
	add_program "$programs/emit"
	config='"Entrypoint":["/usr/local/bin/emit","--idle"],"User":"65535:65535"'
}

recipe_coredns() {
	add_program "$programs/coredns"
	config='"Entrypoint":["/usr/local/bin/coredns"]'
}

# An S3 server, which needs ROOT_ACCESS_KEY and ROOT_SECRET_KEY. Each folder of /data is a bucket.
recipe_versitygw() {
	add_program "$programs/versitygw"
	add_users
	mkdir -m 1777 "$folder/data"
	config="$path_variable,\"Entrypoint\":[\"/usr/local/bin/versitygw\"],\"Cmd\":[\"--port\",\":7070\",\"posix\",\"/data\"]"
}

recipe_postgres() {
	# Removes the database cluster of the package, because the entrypoint creates one on the volume.
	make_rootfs postgres essential postgresql-15,sudo,util-linux,procps \
		"$(fixed_user postgres /var/lib/postgresql)" \
		--customize-hook='rm -rf "$1"/var/lib/postgresql/15 "$1"/etc/postgresql/15' \
		--customize-hook='chroot "$1" install -d -o postgres -g postgres /var/lib/postgresql/data'
	# The folder of the socket is writable for all, because the container may start as root or as postgres.
	mkdir -p "$folder/run" && mkdir -m 1777 "$folder/run/postgresql"
	add_program "$here/entrypoints/postgres-entrypoint"
	add_program "$programs/emit"
	config='"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/15/bin","LANG=C.UTF-8","PGDATA=/var/lib/postgresql/data"],"Entrypoint":["/usr/local/bin/postgres-entrypoint"]'
}

recipe_mariadb() {
	make_rootfs mariadb essential mariadb-server,sudo,util-linux,procps \
		"$(fixed_user mysql /var/lib/mysql)" \
		--customize-hook='rm -rf "$1"/var/lib/mysql' \
		--customize-hook='chroot "$1" install -d -o mysql -g mysql /var/lib/mysql'
	mkdir -p "$folder/run" && mkdir -m 1777 "$folder/run/mysqld"
	add_program "$here/entrypoints/mariadb-entrypoint"
	add_program "$programs/emit"
	config="$path_variable,\"Entrypoint\":[\"/usr/local/bin/mariadb-entrypoint\"]"
}

recipe_toolbox() {
	make_rootfs toolbox essential bash,dash,busybox-static,coreutils,procps,sudo,util-linux
	add_program "$programs/emit"
	config="$path_variable,\"Entrypoint\":[\"/usr/local/bin/emit\",\"--idle\"]"
}

recipe_busybox() {
	local applet
	make_rootfs toolbox essential bash,dash,busybox-static,coreutils,procps,sudo,util-linux
	mkdir "$folder/bin"
	tar -xOf "$rootfs" --wildcards '*/bin/busybox' >"$folder/bin/busybox"
	chmod 0755 "$folder/bin/busybox"
	for applet in $("$folder/bin/busybox" --list); do
		[ "$applet" = busybox ] || ln -s busybox "$folder/bin/$applet"
	done
	rootfs=''
	add_program "$programs/emit"
	add_users
	config="$path_variable,\"Entrypoint\":[\"/usr/local/bin/emit\",\"--idle\"]"
}

recipe_shell-less() {
	add_program "$programs/emit"
	config="$path_variable,\"Entrypoint\":[\"/usr/local/bin/emit\",\"--idle\"]"
}

# The image of Stowaway, from a binary which need not be static. The tests use the binary of `cargo build --release`, whose
# compilation they need anyway.
recipe_stowaway() {
	local libraries=$work/libraries
	[ -x "${stowaway_binary:-}" ] || fail 2 "The program ${stowaway_binary:-(none given)} does not exist." \
		"Build it with: cargo build --release; then: e2e/images/build stowaway target/release/stowaway"
	# Without the line tables, which only the back traces of tests need, and which make the image five times as large.
	strip -o "$work/stowaway.stripped" "$stowaway_binary"
	helper_binary=$("$here/../../helper/build")
	fill_image "$folder" "$work/stowaway.stripped" "$helper_binary"
	mkdir "$libraries"
	# The C library, with which the binary was linked.
	ldd "$stowaway_binary" | grep -o '/[^ ]*' | xargs -r -I{} install -D -m 0755 {} "$libraries/{}" || true
	if [ -n "$(ls "$libraries")" ]; then
		rootfs=$work/stowaway-libraries.tar
		archive "$libraries" "$rootfs"
	fi
	config=$(image_config)
}

# shellcheck shell=bash
# Writes images as the files of an OCI layout, whose bytes depend only on the content of the layers. It needs neither a
# container engine nor a registry.

architecture=$(dpkg --print-architecture 2>/dev/null || uname -m | sed 's/^x86_64$/amd64/; s/^aarch64$/arm64/')
# The time of all files and of the image.
epoch=${SOURCE_DATE_EPOCH:-0}

# The digest of a layer is stored beside it, because some layers are large.
digest_of() {
	[ -s "$1.sha256" ] || sha256sum "$1" | cut -c1-64 >"$1.sha256"
	cat "$1.sha256"
}

size_of() { stat -c %s "$1"; }

# archive FOLDER FILE [MEMBER...]: writes a tar file whose bytes depend only on the content of the folder.
archive() {
	local folder=$1 file=$2
	shift 2
	[ $# -gt 0 ] || set -- .
	tar -C "$folder" --sort=name --format=gnu --mtime="@$epoch" --owner=0 --group=0 --numeric-owner -cf "$file" "$@"
	rm -f "$file.sha256"
}

# make_layout FOLDER CONFIG LAYER...: CONFIG contains the fields of the image's "config" as JSON. A layer is a tar file. If
# FILE.gz exists, the image contains that instead. Sets $manifest_digest.
make_layout() {
	local folder=$1 config=$2 layer stored type created
	local layers='' diff_ids=''
	shift 2
	rm -rf "$folder"
	mkdir -p "$folder/blobs/sha256"
	for layer; do
		stored=$layer type=tar
		[ ! -e "$layer.gz" ] || stored=$layer.gz type=tar+gzip
		ln "$stored" "$folder/blobs/sha256/$(digest_of "$stored")"
		layers+=",{\"mediaType\":\"application/vnd.oci.image.layer.v1.$type\",\"digest\":\"sha256:$(digest_of "$stored")\",\"size\":$(size_of "$stored")}"
		diff_ids+=",\"sha256:$(digest_of "$layer")\""
	done
	created=$(date --utc --date="@$epoch" +%Y-%m-%dT%H:%M:%SZ)
	add_blob "$folder" "{\"created\":\"$created\",\"architecture\":\"$architecture\",\"os\":\"linux\",\"config\":{$config},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[${diff_ids:1}]}}"
	add_blob "$folder" "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",$blob},\"layers\":[${layers:1}]}"
	write_index "$folder"
	manifest_digest=$blob_digest
}

# add_blob FOLDER TEXT: sets $blob, the JSON that refers to it, and $blob_digest.
add_blob() {
	blob_digest=$(printf %s "$2" | sha256sum | cut -c1-64)
	blob="\"digest\":\"sha256:$blob_digest\",\"size\":${#2}"
	printf %s "$2" >"$1/blobs/sha256/$blob_digest"
}

# write_index FOLDER [NAME]: the last blob is the manifest of the image. With a name, loading the layout sets that name.
write_index() {
	local annotations=''
	[ -z "${2:-}" ] || annotations=",\"annotations\":{\"org.opencontainers.image.ref.name\":\"$2\"}"
	printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s%s}]}' \
		"$blob" "$annotations" >"$1/index.json"
	printf '{"imageLayoutVersion":"1.0.0"}' >"$1/oci-layout"
}

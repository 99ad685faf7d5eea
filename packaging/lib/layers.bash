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

# make_layout FOLDER CONFIG LAYER...: writes a layout with one image; see add_image. Sets $manifest_digest.
make_layout() {
	begin_layout "$1"
	add_image "$@"
	write_index "$1"
	manifest_digest=$blob_digest
}

begin_layout() {
	rm -rf "$1"
	mkdir -p "$1/blobs/sha256"
}

# add_image FOLDER CONFIG LAYER...: adds an image of $architecture. CONFIG contains the fields of the image's "config" as JSON.
# A layer is a tar file. If FILE.gz exists, the image contains that instead. The last blob is the manifest of the image. Sets
# $docker_manifest, the same image as `docker load` reads it, without its name.
add_image() {
	local folder=$1 config=$2 layer stored type created
	local layers='' diff_ids='' files=''
	shift 2
	for layer; do
		stored=$layer type=tar
		[ ! -e "$layer.gz" ] || stored=$layer.gz type=tar+gzip
		ln "$stored" "$folder/blobs/sha256/$(digest_of "$stored")"
		layers+=",{\"mediaType\":\"application/vnd.oci.image.layer.v1.$type\",\"digest\":\"sha256:$(digest_of "$stored")\",\"size\":$(size_of "$stored")}"
		diff_ids+=",\"sha256:$(digest_of "$layer")\""
		files+=",\"blobs/sha256/$(digest_of "$stored")\""
	done
	created=$(date --utc --date="@$epoch" +%Y-%m-%dT%H:%M:%SZ)
	add_blob "$folder" application/vnd.oci.image.config.v1+json \
		"{\"created\":\"$created\",\"architecture\":\"$architecture\",\"os\":\"linux\",\"config\":{$config},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[${diff_ids:1}]}}"
	docker_manifest="\"Config\":\"blobs/sha256/$blob_digest\",\"Layers\":[${files:1}]"
	add_blob "$folder" application/vnd.oci.image.manifest.v1+json \
		"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":{$blob},\"layers\":[${layers:1}]}"
}

# add_blob FOLDER TYPE TEXT: sets $blob, the fields of the JSON object that refers to it, and $blob_digest.
add_blob() {
	blob_digest=$(printf %s "$3" | sha256sum | cut -c1-64)
	blob="\"mediaType\":\"$2\",\"digest\":\"sha256:$blob_digest\",\"size\":${#3}"
	printf %s "$3" >"$1/blobs/sha256/$blob_digest"
}

# add_platforms FOLDER MANIFEST...: adds the index of the images of several architectures. A MANIFEST is a JSON object.
add_platforms() {
	local folder=$1 IFS=,
	shift
	add_blob "$folder" application/vnd.oci.image.index.v1+json \
		"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[$*]}"
}

# write_index FOLDER [NAME]: the last blob is what the layout contains. With a name, loading the layout sets that name.
write_index() {
	local annotations=''
	[ -z "${2:-}" ] || annotations=",\"annotations\":{\"org.opencontainers.image.ref.name\":\"$2\"}"
	printf '{"schemaVersion":2,"manifests":[{%s%s}]}' "$blob" "$annotations" >"$1/index.json"
	printf '{"imageLayoutVersion":"1.0.0"}' >"$1/oci-layout"
}

# shellcheck shell=bash disable=SC2154
# Builds images as the files of an OCI layout. Layers are uncompressed tar files, so that no time is
# spent on compression. It needs neither a container engine nor a registry.

architecture=$(dpkg --print-architecture 2>/dev/null || echo amd64)

# The digest of a layer is stored beside it, because some layers are large.
digest_of() {
	[ -s "$1.sha256" ] || sha256sum "$1" | cut -c1-64 >"$1.sha256"
	cat "$1.sha256"
}

size_of() { stat -c %s "$1"; }

# pack FOLDER FILE: writes a tar file whose bytes depend only on the content of the folder.
pack() {
	tar -C "$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$2" .
	rm -f "$2.sha256"
}

# make_layout FOLDER CONFIG LAYER...: CONFIG contains the fields of the image's "config" as JSON.
make_layout() {
	local folder=$1 config=$2 layer digest
	local layers='' diff_ids=''
	shift 2
	rm -rf "$folder"
	mkdir -p "$folder/blobs/sha256"
	for layer; do
		digest=$(digest_of "$layer")
		ln "$layer" "$folder/blobs/sha256/$digest"
		layers+=",{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"sha256:$digest\",\"size\":$(size_of "$layer")}"
		diff_ids+=",\"sha256:$digest\""
	done
	add_blob "$folder" "{\"architecture\":\"$architecture\",\"os\":\"linux\",\"config\":{$config},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[${diff_ids:1}]}}"
	add_blob "$folder" "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",$blob},\"layers\":[${layers:1}]}"
	printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s}]}' "$blob" >"$folder/index.json"
	printf '{"imageLayoutVersion":"1.0.0"}' >"$folder/oci-layout"
	manifest_digest=$blob_digest
}

# add_blob FOLDER TEXT: sets $blob, the JSON that refers to it, and $blob_digest.
add_blob() {
	blob_digest=$(printf %s "$2" | sha256sum | cut -c1-64)
	blob="\"digest\":\"sha256:$blob_digest\",\"size\":${#2}"
	printf %s "$2" >"$1/blobs/sha256/$blob_digest"
}

# Without the cluster, its addresses do not exist on this machine, and a push would be sent elsewhere.
require_registry() {
	[ "$registry" != "$own_registry" ] || [ -e "/sys/class/net/$host_link" ] ||
		fail 2 "The registry $registry is not up: start the cluster with e2e/cluster/up, or set STOWAWAY_REGISTRY."
}

# push NAME LAYOUT: pushes the image unless the registry already has it.
push() {
	local reference=$registry/$1:latest log=$logs/push-$1.log
	mkdir -p "$logs"
	if [ "$("$programs/crane" digest "$reference" 2>/dev/null)" = "sha256:$manifest_digest" ]; then
		report "$reference is unchanged"
		return
	fi
	"$programs/crane" push "$2" "$reference" >"$log" 2>&1 || fail_with_log "$log" "Pushing $reference failed."
	report "pushed $reference@sha256:$manifest_digest"
}

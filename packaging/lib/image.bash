# shellcheck shell=bash disable=SC2154
# The content and the configuration of Stowaway's image. The configuration is that of the last stage of the Containerfile,
# so that both images start the same command as the same user.

packaging=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
containerfile=$packaging/../Containerfile
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$packaging/../Cargo.toml" | head -n 1)

# fill_image FOLDER BINARY HELPER: copies the files of the image.
fill_image() {
	local folder=$1 certificates=/usr/share/ca-certificates/mozilla
	# The certificates of Mozilla alone, because /etc/ssl/certs can contain authorities which only this machine trusts.
	compgen -G "$certificates/*.crt" >/dev/null || {
		echo "The CA certificates of Mozilla are missing in $certificates. Debian: apt-get install ca-certificates" >&2
		return 2
	}
	mkdir -p "$folder/etc/ssl/certs" "$folder/usr/local/bin"
	mkdir -m 1777 "$folder/tmp"
	cat "$certificates"/*.crt >"$folder/etc/ssl/certs/ca-certificates.crt"
	cp "$packaging/passwd" "$packaging/group" "$folder/etc/"
	chmod -R u=rwX,go=rX "$folder/etc"
	install -m 0755 "$2" "$folder/usr/local/bin/stowaway"
	install -m 0755 "$3" "$folder/usr/local/bin/stowaway-helper"
}

# Prints the arguments of an instruction of the Containerfile's last stage.
instruction() { sed -e '1,/^FROM scratch/d' "$containerfile" | sed -n "s/^$1 //p"; }

# Prints the fields of the image's "config" as JSON. $SOURCE is the address of the repository.
image_config() {
	local labels
	labels=$(instruction LABEL | sed -e "s|\$VERSION|$version|; s|\$SOURCE|${SOURCE:-}|; s/^\([^=]*\)=/\"\1\":/" | paste -sd,)
	printf '"User":"%s","Env":["%s"],"Entrypoint":%s,"Labels":{%s}' \
		"$(instruction USER)" "$(instruction ENV)" "$(instruction ENTRYPOINT)" "$labels"
}

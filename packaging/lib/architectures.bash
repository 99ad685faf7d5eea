# shellcheck shell=bash
# The architectures for which images and releases are made, by their names in images (amd64, arm64), and the compilers for them.

architectures=(amd64 arm64)
native_architecture=$(uname -m | sed 's/^x86_64$/amd64/; s/^aarch64$/arm64/')

# machine_of ARCHITECTURE: prints the name that compilers, the kernel and QEMU use.
machine_of() {
	case $1 in
	amd64) echo x86_64 ;;
	arm64) echo aarch64 ;;
	*)
		echo "Unknown architecture: $1. Known are ${architectures[*]}." >&2
		return 2
		;;
	esac
}

# c_compiler_of MACHINE: prints the C compiler that the build of another architecture uses and links with.
c_compiler_of() { echo "$1-linux-gnu-gcc"; }

# has_rust_target TARGET: whether the compiler has the standard library of the target. Installs it if rustup can.
has_rust_target() {
	local folder
	folder=$(rustc --print target-libdir --target "$1")
	if ! [ -d "$folder" ] && command -v rustup >/dev/null; then rustup --quiet target add "$1" >&2 || true; fi
	[ -d "$folder" ]
}

# use_c_compiler TARGET MACHINE: exports the variables by which Cargo and the build scripts of C code find the compiler of
# another architecture. Without effect for the own one.
use_c_compiler() {
	local target=$1 compiler variable
	[ "$2" != "$(uname -m)" ] || return 0
	compiler=$(c_compiler_of "$2")
	variable=${target//-/_}
	export "CC_$variable=$compiler" "CARGO_TARGET_${variable^^}_LINKER=$compiler"
}

# obstacle_to ARCHITECTURE: prints why this machine cannot compile for the architecture, and nothing if it can.
obstacle_to() {
	local machine compiler
	machine=$(machine_of "$1") || return
	[ "$1" != "$native_architecture" ] || return 0
	compiler=$(c_compiler_of "$machine")
	if ! command -v "$compiler" >/dev/null; then
		echo "its C compiler $compiler is missing. Debian: apt-get install gcc-${machine//_/-}-linux-gnu libc6-dev-$1-cross"
	elif ! has_rust_target "$machine-unknown-linux-gnu"; then
		echo "the Rust target $machine-unknown-linux-gnu is missing. rustup: rustup target add $machine-unknown-linux-gnu"
	fi
}

# architecture_of PROGRAM: prints the architecture for which the program was compiled.
architecture_of() {
	case $(LC_ALL=C readelf --file-header "$1" | sed -n 's/^ *Machine: *//p') in
	*X86-64*) echo amd64 ;;
	AArch64) echo arm64 ;;
	*) echo "$1 is not a program of one of the architectures ${architectures[*]}" >&2 && return 2 ;;
	esac
}

# emulator_of ARCHITECTURE: prints the emulator that runs its programs here; nothing for the own architecture.
emulator_of() { [ "$1" = "$native_architecture" ] || echo "qemu-$(machine_of "$1")-static"; }

# shellcheck shell=bash source-path=SCRIPTDIR/..
# Sources all files that the scripts of the cluster share.
# The caller sets $here to the folder of the cluster first.
source "${here:?}/lib/settings.bash"
source "${here:?}/lib/report.bash"
source "${here:?}/lib/packages.bash"
source "${here:?}/lib/processes.bash"
source "${here:?}/lib/network.bash"
source "${here:?}/lib/control-plane.bash"
source "${here:?}/lib/node.bash"
source "${here:?}/lib/storage.bash"
source "${here:?}/lib/health.bash"
source "${here:?}/lib/cleanup.bash"

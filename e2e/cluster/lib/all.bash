# shellcheck shell=bash source-path=SCRIPTDIR/..
# Everything the scripts that run the cluster share.
# They set $here first: the folder of the cluster.
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

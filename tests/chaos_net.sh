#!/bin/bash
# Runs a command in a network namespace whose loopback delays and loses packets, where the system
# permits it: unshare -n (root, or user namespaces), and tc with netem. Else says so, and runs it
# where it is.
#
#   chaos_net.sh COMMAND...
up='ip link set lo up && tc qdisc add dev lo root netem delay 1ms 1ms loss 1%'
for how in "unshare -n" "unshare -r -n"; do
    # shellcheck disable=SC2086
    $how sh -c "$up" 2>/dev/null && exec $how sh -c "$up"' && exec "$@"' sh "$@"
done
echo "no namespace with netem here: delay and loss come from the links of chaos alone"
exec "$@"

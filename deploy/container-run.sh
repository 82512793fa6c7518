#!/bin/sh
# What the container runs: `tidemill up`, then wait until its supervisor ends; a stop of the container is a `tidemill down`.
set -eu
trap 'tidemill down; exit 0' TERM INT
tidemill up
supervisor=$(python -c 'import json; print(json.load(open(".tidemill/servers/supervisor.json"))["pid"])')
tail --pid="$supervisor" -f /dev/null &
wait $!

#!/usr/bin/env bash
# The same with Mosquitto's own command line clients: nothing of this project is needed.
#
#     examples/02_plain_clients.sh [HOST [PORT [DEPLOYMENT]]]
#
# Needs mosquitto_rr, mosquitto_pub and mosquitto_sub (Debian: mosquitto-clients).
set -euo pipefail

host=${1:-127.0.0.1}
port=${2:-1883}
deployment=${3:-hazards}

# Every device has a name of its own. It is a level of its topics and it keys the answers that are
# remembered, so two devices must not share one.
device="example-$(uname -n | tr -cd '[:alnum:]')-$$"
root="dsi/v1/deploy/$deployment"
in="$root/in/$device"
out="$root/out/$device"

# Is anybody there? (bash connects by itself)
if ! (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; then
    echo "no MQTT broker answers at $host:$port; start one (dsi-mqtt up examples/hazards.yaml), or give HOST and PORT" >&2
    exit 1
fi

broker=(-h "$host" -p "$port" -q 1)
wait_s=10

# An answer says whether it is a result or an error. Results may be long: what is shown is cut.
show() {
    printf '%s\n   %.120s\n' "$1" "$2"
    grep -q '"status": *"ok"' <<<"$2" || failed=1
}
failed=0

# 1. MQTT 5, request and response, JSON. The answer comes on the Response Topic (-e), which must lie
#    below the device's own out/ topic, with the same Correlation Data.
answer=$(mosquitto_rr -V mqttv5 "${broker[@]}" -W "$wait_s" \
    -t "$in" -e "$out/json" \
    -D publish correlation-data q1 \
    -D publish content-type application/json \
    -m '{"input": "Ice on the bridge", "id": "q1"}')
show "MQTT 5, JSON" "$answer"

# 2. MQTT 5, the input itself as payload: any Content Type other than application/json says so.
#    An image goes the same way: content-type image/jpeg, -f photo.jpg instead of -m.
answer=$(mosquitto_rr -V mqttv5 "${broker[@]}" -W "$wait_s" \
    -t "$in" -e "$out/text" \
    -D publish correlation-data q2 \
    -D publish content-type text/plain \
    -m 'A lorry lost its load of pipes')
show "MQTT 5, raw text" "$answer"

# 3. MQTT 3.1.1 knows neither: JSON in, the answer on .../result, told apart by "id". The first
#    command only leaves a subscription behind, so that no answer can come too early.
session=(-V mqttv311 -i "$device" "${broker[@]}" -t "$out/result")
mosquitto_sub "${session[@]}" -c -E
trap 'mosquitto_sub "${session[@]}" -E' EXIT # without -c: the broker forgets the session
mosquitto_pub -V mqttv311 "${broker[@]}" -t "$in" \
    -m '{"input": "Smoke drifts over the motorway", "id": "q3"}'
answer=$(mosquitto_sub "${session[@]}" -c -C 1 -W "$wait_s")
show "MQTT 3.1.1" "$answer"

exit "$failed"

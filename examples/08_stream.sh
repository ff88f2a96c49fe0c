#!/usr/bin/env bash
# A generation, read as it comes with Mosquitto's own clients (MQTT 3.1.1). Ctrl-C cancels it.
#
#     examples/08_stream.sh [PROMPT [HOST [PORT [DEPLOYMENT]]]]
#
# Needs mosquitto_pub and mosquitto_sub (Debian: mosquitto-clients), and a prompt without quotes.
set -euo pipefail

prompt=${1:-Once upon a time}
host=${2:-127.0.0.1}
port=${3:-1883}
deployment=${4:-chat}

device="example-$(uname -n | tr -cd '[:alnum:]')-$$"
root="dsi/v1/deploy/$deployment"
# Is anybody there? (bash connects by itself)
if ! (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; then
    echo "no MQTT broker answers at $host:$port; start one (dsi-mqtt up examples/chat.yaml), or give HOST and PORT" >&2
    exit 1
fi

broker=(-V mqttv311 -h "$host" -p "$port" -q 1)

# Subscribe before asking: the first command leaves a subscription behind, the last one removes it.
session=("${broker[@]}" -i "$device" -t "$root/out/$device/result")
mosquitto_sub "${session[@]}" -c -E
exec 3< <(exec setsid mosquitto_sub "${session[@]}" -c) # in a session of its own: without Ctrl-C
reader=$!
end() {
    kill "$reader" 2>/dev/null || true
    mosquitto_sub "${session[@]}" -E
}
trap end EXIT
trap 'mosquitto_pub "${broker[@]}" -t "$root/cancel/$device" -m "{\"id\": \"s1\"}"' INT

mosquitto_pub "${broker[@]}" -t "$root/in/$device" \
    -m "{\"id\": \"s1\", \"input\": {\"prompt\": \"$prompt\", \"stream\": true, \"max_tokens\": 60}}"

# A message of the stream has the tokens from number "index" on, and their text; one may come
# twice, and a higher "take" tells the text anew. The last message is the answer: the whole.
while read -r -u 3 line; do
    printf '%s\n' "$line"
    grep -Eq '"status": *"partial"' <<<"$line" || break
done
grep -Eq '"status": *"ok"' <<<"$line"

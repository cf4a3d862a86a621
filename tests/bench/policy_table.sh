#!/usr/bin/env bash
# The tables of replay/guide/policy-table.md and policy-table.csv: every preset, every score with its controls and coded
# caches on planted needles, in both loops and three protocols. From the repository root:
#   tests/bench/policy_table.sh [MODEL [OUT [PROMPTS [LENGTH]]]]
# Interrupted runs go on where they were. Some twenty minutes of two cores. What can be fitted is fitted on other
# prompts. Controls are asked the first question (or all in one cache) on CONTROL_PROMPTS (3) of the prompts; their loss
# is the predicted one, and the true one in the lists named by CONTROLS_CLOSED (none by default).
set -euo pipefail
model=${1:-traces/examples/tiny-3m} out=${2:-policy-table-out} prompts=${3:-6} length=${4:-640}
kvgrind=${KVGRIND:-build/bin/kvgrind} budgets=0.5,0.2,0.1,0.05
mkdir -p "$out"
python3 tests/bench/policy_prompts.py tests/golden/closed_loop_tiny-3m.json traces/examples/prompts/needle.json "$out" \
  "$prompts" "$length"
record() {  # name, then where the prompts are
  local name=$1
  shift
  [ -e "$out/$name.kvt" ] || "$kvgrind" record --model "$model" "$@" -o "$out/$name.kvt" -q
}
probes=(--probes repeat,reread,episode)
record blind --tokens "$out/blind.json" "${probes[@]}"
record multi --tokens "$out/multi.json" "${probes[@]}"
record fit --texts "$out/fit.json" "${probes[@]}"
record echo --tokens "$out/echo.json"

calib=()
for fit in $("$kvgrind" policies --json | python3 -c '
import json, sys
print(*sorted({fit for policy in json.load(sys.stdin)["policies"] for fit in policy["fitted_by"]}))'); do
  trace=fit
  [ "$fit" = razor ] && trace=echo
  [ -e "$out/$fit.h5" ] || "$kvgrind" fit "$fit" "$out/$trace.kvt" -o "$out/$fit.h5" | tee "$out/$fit.txt"
  [ "$fit" = razor ] || calib+=(--calib "$out/$fit.h5")  # of duo and razor, which fit the same parameter, duo
done

rest='schedule=prefill_end read=all'
coded=()  # random and the newest tokens, kept exact or coded, and the whole cache coded
for code in 'format=e4m3' 'bits=4'; do
  for line in "score=none budget=all select=all" "score=random budget=uniform select=topk" \
      "score=none budget=uniform select=sinks_recent(sinks=0)"; do
    coded+=(--policy "$line act=code($code) $rest")
  done
done
controls=()
for score in $("$kvgrind" policies --primitives --json | python3 -c '
import json, sys
print(*(p["name"] for p in json.load(sys.stdin)["primitives"] if p["slot"] == "score"))'); do
  for select in 'topk' 'topk(sink=4)' 'topk(recent=32)'; do
    controls+=(--policy "score=$score budget=uniform select=$select act=drop $rest")
  done
done
others=("${calib[@]}")                 # all presets but razor
razor=(--calib "$out/razor.h5")
passes=()  # presets that read the context once more, which a sweep of all leaves out
for preset in $("$kvgrind" policies --json | python3 -c '
import json, sys
print(*(p["name"] for p in json.load(sys.stdin)["policies"] if any(need.endswith("_probe") for need in p["needs"]) and not p["fitted_by"]))'); do
  passes+=(--policy "$preset")
done

open_loop() {  # name trace protocol arguments…: a job that fails becomes a row
  local name=$1 trace=$2 protocol=$3
  shift 3
  "$kvgrind" sweep "$out/$trace.kvt" --model "$model" "$@" --budget "$budgets" --protocol "$protocol" \
    -o "$out/$name-open.jsonl" --resume > /dev/null || [ $? = 1 ]
}
closed_loop() {  # name protocol arguments…
  local name=$1 protocol=$2
  shift 2
  "$kvgrind" eval --model "$model" --suite "$out/suite.json" "$@" --budget "$budgets" --protocol "$protocol" \
    -o "$out/$name-closed.jsonl" --resume > /dev/null || [ $? = 1 ]
}
first_questions() {  # the first fork of the first prompts of a trace
  python3 -c '
import json, sys
forks = {}
for number, sequence in enumerate(json.load(open(sys.argv[1]))):
    if "parent" in sequence:
        forks.setdefault(sequence["parent"], str(number))
print(",".join(list(forks.values())[:int(sys.argv[2])]))' "$out/$1.json" "${CONTROL_PROMPTS:-3}"
}
lists=('blind blind blind' 'aware blind aware' 'multi multi blind')  # list, trace, the open loop's protocol
for list in "${lists[@]}"; do
  read -r name trace protocol <<< "$list"
  open_loop "$name" "$trace" "$protocol" --policy all "${coded[@]}" "${others[@]}"
  open_loop "$name-passes" "$trace" "$protocol" "${passes[@]}"
  open_loop "$name-razor" "$trace" "$protocol" --policy razor "${razor[@]}"
  closed_loop "$name" "$name" --policy all "${coded[@]}" "${others[@]}"
  closed_loop "$name-razor" "$name" --policy razor "${razor[@]}"
done
for list in "${lists[@]}"; do
  read -r name trace protocol <<< "$list"
  open_loop "$name-controls" "$trace" "$protocol" "${controls[@]}" "${others[@]}" --seq "$(first_questions "$trace")"
done
for name in ${CONTROLS_CLOSED-}; do
  closed_loop "$name-controls" "$name" "${controls[@]}" "${others[@]}"
done
python3 tests/bench/policy_table.py "$out" "$kvgrind" replay/guide/policy-table

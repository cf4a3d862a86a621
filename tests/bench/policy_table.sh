#!/usr/bin/env bash
# The tables of replay/guide/policy-table.md: every method, and every score with its controls, on planted needles, in
# both loops and three protocols. From the repository root:
#   tests/bench/policy_table.sh [MODEL [OUT [PROMPTS [LENGTH]]]]
# Interrupted runs go on where they were. Some ten minutes of two cores. What can be fitted is fitted on other prompts.
set -euo pipefail
model=${1:-traces/examples/tiny-3m} out=${2:-policy-table-out} prompts=${3:-4} length=${4:-512}
kvgrind=${KVGRIND:-build/bin/kvgrind} budgets=0.5,0.2,0.1,0.05
mkdir -p "$out"
python3 tests/bench/policy_prompts.py tests/golden/closed_loop_tiny-3m.json "$out" "$prompts" "$length"
for name in blind multi fit; do
  if [ ! -e "$out/$name.kvt" ]; then
    "$kvgrind" record --model "$model" --tokens "$out/$name.json" --probes repeat,reread,episode -o "$out/$name.kvt"
  fi
done
calib=()
for fit in $("$kvgrind" policies --json | python3 -c '
import json, sys
print(*sorted({fit for policy in json.load(sys.stdin)["policies"] for fit in policy["fitted_by"]}))'); do
  if [ ! -e "$out/$fit.h5" ]; then "$kvgrind" fit "$fit" "$out/fit.kvt" -o "$out/$fit.h5" || continue; fi
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
both() {  # name trace protocol-of-the-open-loop protocol-of-the-closed-loop policies…: a failing job becomes a row
  local name=$1 trace=$2 open=$3 closed=$4
  shift 4
  "$kvgrind" sweep "$out/$trace.kvt" --model "$model" "$@" "${calib[@]}" --budget "$budgets" --protocol "$open" \
    -o "$out/$name-open.jsonl" --resume > /dev/null || [ $? = 1 ]
  "$kvgrind" eval --model "$model" --suite "$out/suite.json" "$@" "${calib[@]}" --budget "$budgets" \
    --protocol "$closed" -o "$out/$name-closed.jsonl" --resume > /dev/null || [ $? = 1 ]
}
both blind blind blind blind --policy all "${coded[@]}"
both aware blind aware aware --policy all "${coded[@]}"
both multi multi blind multi --policy all "${coded[@]}"
both controls blind blind blind "${controls[@]}"
python3 tests/bench/policy_table.py "$out" "$kvgrind" > replay/guide/policy-table.md

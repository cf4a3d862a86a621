#!/usr/bin/env bash
# The experiment behind replay/guide/trust.md: 28 methods × 6 budgets × 50 prompts a task, both loops, on a model whose
# prompt forms the suites use. From the repository root:
#   tests/bench/validate.sh [MODEL [OUT [PROMPTS [LENGTH]]]]
# Interrupted runs go on where they were. About 25 minutes of one core a task on tiny-3m. Then, on DECODE_PROMPTS prompts
# (10; 0 = not at all), eviction at every decoding step: 10 methods × 5 budgets, three questions one after another in one
# cache, the budget held all along; minutes a task.
set -euo pipefail
model=${1:-traces/examples/tiny-3m} out=${2:-validate-out} prompts=${3:-50} length=${4:-1024}
kvgrind=${KVGRIND:-build/bin/kvgrind}
policies=()
for preset in random window streamingllm snapkv pyramidkv knorm keydiff expected_attention observed \
    'h2o(variant=prefill)' lagkv cur cap adakv criticalkv chunkkv merging expected_adakv; do
  policies+=(--policy "$preset")
done
tail='schedule=prefill_end read=all'
for code in 'format=e4m3' 'bits=4,group=32,axis=token' 'bits=2,group=32,axis=key_channel' \
    'bits=1,group=32,axis=channel'; do  # what is kept stays exact, the rest is coded
  for score in expected_attention random; do
    policies+=(--policy "score=$score budget=uniform select=topk act=code($code,of=rest) $tail")
  done
done
policies+=(--policy "score=random budget=uniform select=topk act=code(bits=4,group=32,axis=token,of=kept) $tail"
           --policy "score=key_diff budget=uniform select=topk act=code(bits=2,group=32,axis=channel,of=kept) $tail")
for task in needle records chains copy prose; do
  "$kvgrind" validate --model "$model" --suite "$task" --prompts "$prompts" --length "$length" "${policies[@]}" \
    --budget 0.5,0.3,0.2,0.1,0.05,0.03 --resamples 500 -o "$out/$task" > /dev/null
  sed -n '/^| task/,/^| '"$task"'/p' "$out/$task/report.md"
done

# Eviction while decoding: what is evicted after one question is gone for the next.
steps=(--policy tova --policy 'tova(newest=keep)' --policy 'h2o(variant=online)' --policy window)
for score in key_norm key_diff 'window_attention(window=32)' observed_attention random; do
  steps+=(--policy "score=$score budget=uniform select=topk act=drop schedule=step read=all")
done
steps+=(--policy "score=none budget=uniform select=sinks_recent(sinks=4) act=drop schedule=step read=all")
if [ "${DECODE_PROMPTS:-10}" -gt 0 ]; then
  for task in needle records chains copy prose; do
    "$kvgrind" validate --model "$model" --suite "$task" --protocol multi --prompts "${DECODE_PROMPTS:-10}" \
      --length "$length" "${steps[@]}" --budget 0.5,0.3,0.2,0.1,0.05 --resamples 500 -o "$out/$task-decode" > /dev/null
    sed -n '/^| task/,/^| '"$task"'/p' "$out/$task-decode/report.md"
  done
fi

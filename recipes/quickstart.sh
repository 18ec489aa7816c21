#!/usr/bin/env bash
# The whole product once: scenes -> frames -> frozen questions -> LoRA fine-tuning -> vLLM scores -> leaderboard.
# SIZE=short is what CI runs. Everything lands in runs/quickstart; run it again and finished steps are not repeated.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-runs/quickstart}
if [ "${SIZE:-full}" = short ]; then
  scenes=40 test_scenes=20 questions=60 steps=20 seed=7
  out=${OUT:-runs/quickstart-short}
else
  scenes=300 test_scenes=80 questions=360 steps=150 seed=7
fi
mkdir -p "$out"
say() { printf '\n== %s\n' "$*"; }

say "1/6 procedural scenes: training and, from other seeds, held-out ones"
depthlm data synthetic --out "$out/train" --scenes $scenes --views 4 --size 320x240 --fov 55,100 --seed $seed --workers 2
depthlm data synthetic --out "$out/held-out" --scenes $test_scenes --views 4 --size 320x240 --fov 55,100 --seed $((seed + 1)) --workers 2

say "2/6 a frozen suite: all six question kinds on the held-out scenes"
[ -f "$out/suite/suite.json" ] || { rm -rf "$out/suite"; \
  depthlm data freeze "$out/held-out" --out "$out/suite" --count $questions --profile nano --name procedural-quickstart; }

say "3/6 LoRA fine-tuning from the packaged nano base"
accelerate launch --config_file recipes/accelerate/cpu.yaml recipes/sft.py --config recipes/configs/nano_cpu.yaml \
  --stores "$out/train" --output_dir "$out/model" --max_steps $steps

say "4/6 vLLM answers the suite"
depthlm eval run "$out/suite" --model "$out/model" --label "nano + quickstart" --out "$out/results"

say "5/6 baselines: the best constant, a random answer, the truth"
for baseline in best-constant constant:2.0 random truth; do
  depthlm eval run "$out/suite" --baseline $baseline --out "$out/results"
done

say "6/6 leaderboard and pictures"
depthlm eval leaderboard "$out"/results/*/result.jsonl --out "$out/leaderboard"
depthlm eval pictures "$out/suite" --results "$out/results" --trainer-state "$out/model/trainer_state.json" --out "$out"
say "done: open $out/leaderboard/leaderboard.html, $out/contact_sheet.png, $out/scatter.png, $out/loss.png"

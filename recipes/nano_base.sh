#!/usr/bin/env bash
# Trains the nano base of depthlm/assets/nano_base again, stage by stage: about 3.2 hours on two CPU cores. Stopped at any
# moment, the same command goes on. SIZE=short takes all stages a few steps far, to see that they run.
#
#     bash recipes/nano_base.sh
#
# Result: runs/base/6. Its card tells what each stage is for, and how the committed one differs.
set -euo pipefail
cd "$(dirname "$0")/.."
SIZE=${SIZE:-full}
OUT=${OUT:-runs/base}
[ "$SIZE" = short ] && scenes=20 || scenes=5000

stage() { # number, start, steps, batch, peak rate, points, mix, sample seed, stores, further arguments
  local steps=$3
  [ "$SIZE" = short ] && steps=2
  # shellcheck disable=SC2086  # stores are several words
  accelerate launch --config_file recipes/accelerate/cpu.yaml recipes/sft.py --config recipes/configs/nano_base.yaml \
    --output_dir "$OUT/$1" --model_name_or_path "$2" --max_steps "$steps" --per_device_train_batch_size "$4" \
    --learning_rate "$5" --points_per_image "$6" --mix "$7" --sample_seed "$8" --stores $9 "${@:10}"
}

for part in "b 1000" "c 3000"; do
  set -- $part
  [ -f "$OUT/train-$1/report.json" ] ||
    depthlm data synthetic --out "$OUT/train-$1" --scenes "$scenes" --size 240x180 --fov 55,100 --seed "$2" --dense
done
b=$OUT/train-b both="$OUT/train-b $OUT/train-c"
six=distance=3,axis_distance=1.5,speed=1,travel_time=1,two_point=1.5,camera_motion=1

stage 1 nano-random 1900 16 1e-3 4 "$six" 1 "$b"
stage 2 "$OUT/1" 800 16 1e-3 4 "$six" 2 "$b"
stage 3 "$OUT/2" 1200 32 7e-4 1 distance=1 1 "$b"
stage 4 "$OUT/3" 3000 24 7e-4 2 "$six" 11 "$both"
stage 5 "$OUT/4" 1600 32 6e-4 1 "${six/distance=3/distance=4}" 21 "$both"
stage 6 "$OUT/5" 4600 24 8e-4 2 "${six/camera_motion=1/camera_motion=0.5}" 77 "$both" --warmup_steps 200 --augment_flip 0.5

#!/usr/bin/env bash
# Builds every fuzz target into $OUT, each with its seeds and its options.
#
# OSS-Fuzz names the sanitizer ($SANITIZER) and has a nightly toolchain. Without both, as for a try outside its container,
# the targets are built without a sanitizer: PROJECT=$PWD OUT=$PWD/build/oss-fuzz fuzz/oss-fuzz/build.sh.
set -euo pipefail

project=${PROJECT:-$SRC/freehold}
cd "$project/fuzz"
host=$(rustc -vV | sed -n 's/^host: //p')
case ${SANITIZER:-none} in
coverage) sanitizer=none ;;
*) sanitizer=${SANITIZER:-none} ;;
esac
build=(--release --debug-assertions --sanitizer "$sanitizer" ${TARGET_DIRECTORY:+--target-dir "$TARGET_DIRECTORY"})

mkdir -p "$OUT"
for source in fuzz_targets/*.rs; do
    target=$(basename -s .rs "$source")
    # By its name: the other programs here are not to be fuzzed.
    cargo fuzz build "${build[@]}" "$target"
    cp "${TARGET_DIRECTORY:-target}/$host/release/$target" "$OUT/"
    zip -q -j -r "$OUT/${target}_seed_corpus.zip" "corpus/$target"
    # As in fuzz/run: inputs are no longer than what a target looks at.
    length=256
    [ "$target" != ownership ] || length=513
    printf '[libfuzzer]\nmax_len = %d\ntimeout = 60\n' "$length" >"$OUT/$target.options"
done

#!/bin/sh
# Remake docs/report.png: the top of the report on the demo's runs, at desktop width, in light mode.
# Usage: docs/screenshot.sh [RUNS [CACHE]]     (needs egmf-report on the path, and Chromium)
set -eu
runs=${1:-runs}
cache=${2:-cache}
browser=${CHROMIUM:-chromium}
height=${HEIGHT:-1650}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
egmf-report --runs "$runs" --cache "$cache" --out "$folder" --format html
sandbox=
if [ "$(id -u)" -eq 0 ]; then sandbox=--no-sandbox; fi
"$browser" --headless $sandbox --disable-gpu --hide-scrollbars --no-first-run \
  --user-data-dir="$folder/profile" --window-size="1280,$height" \
  --screenshot="$folder/report.png" "file://$folder/index.html" 2>"$folder/log" \
  || { cat "$folder/log" >&2; exit 1; }
mv "$folder/report.png" "$(dirname "$0")/report.png"

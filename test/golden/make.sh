#!/usr/bin/env bash
# Makes every golden file again, each by the script that is named in it, in a Python environment of its own.
set -euo pipefail
cd "$(dirname "$0")"
export PYTHONDONTWRITEBYTECODE=1
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
python3 -m venv "$environment"
"$environment/bin/pip" install --quiet numpy==2.4.6 torch==2.13.0 tokenizers==0.23.3 safetensors==0.8.0 ml_dtypes==0.6.0 transformers==5.23.0 jinja2==3.1.6 pyarrow==26.0.1 "lm_eval[hf]==0.4.13"
for script in make_*.py; do
  echo "$script"
  "$environment/bin/python" "$script"
done

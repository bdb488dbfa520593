#!/bin/sh
# Installs the worker, and of its dependencies those that it runs with, in the versions of package-lock.json.
# usage: install-worker.sh CHECKOUT FOLDER      (FOLDER is made; the checkout is built if it was not)
set -eu
checkout=$(cd "${1:?the checkout}" && pwd)
folder=${2:?the folder to install into}

if [ ! -e "$checkout/batch-jobs/dist/main.js" ]; then
  (cd "$checkout" && npm ci)
fi
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cp "$checkout/package.json" "$checkout/package-lock.json" "$folder"
for package in sdk api batch-jobs infra; do
  mkdir -p "$folder/$package"
  cp "$checkout/$package/package.json" "$folder/$package"
done
(cd "$folder" && npm ci --omit=dev --workspace @cherryq/batch-jobs --ignore-scripts --no-audit --no-fund)
cp -R "$checkout/batch-jobs/dist" "$folder/batch-jobs"
mkdir -p "$folder/batch-jobs/kernels"
cp -R "$checkout/batch-jobs/kernels/build" "$folder/batch-jobs/kernels"

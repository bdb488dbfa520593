#!/bin/sh
# The folder that CUDA keeps compiled kernels in, writable for the user that the worker runs as.
# usage: prepare-runtime.sh USER FOLDER
set -eu
mkdir -p "${2:?the folder}"
chown "${1:?the user}" "$2"

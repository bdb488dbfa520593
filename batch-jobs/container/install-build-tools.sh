#!/bin/sh
# What only the building stage of the image needs: a C++ compiler for the engine's addon, and pip, which fetches TensorFlow.
# Debian's versions of the day; the addon speaks two stable C interfaces, so its compiler's version does not matter.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends ca-certificates g++ python3 python3-pip
rm -rf /var/lib/apt/lists/*

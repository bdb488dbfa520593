#!/bin/sh
# Makes the native engine of one kind; nothing is done when it is there.
# usage: install-engine.sh CHECKOUT gpu|cpu FOLDER      (FOLDER is what CHERRYQ_ENGINE_DIR will name)
set -eu
checkout=${1:?the checkout}
kind=${2:?gpu or cpu}
folder=${3:?the folder of engines}
case $kind in
  gpu) set -- --gpu ;;
  cpu) set -- ;;
  *) echo "install-engine.sh: the kind is \"$kind\"; it must be gpu or cpu" >&2 && exit 2 ;;
esac
mkdir -p "$folder"
CHERRYQ_ENGINE_DIR=$folder node "$checkout/sdk/bin/cherryq.js" engine install "$@"
